//! What the guest is and how it fares. An agent that is not PID 1 leaves the
//! machine it runs on alone.

use std::collections::HashMap;

use tombolo_guest_proto::v1::{
    Empty, EnvKey, HelloRequest, PersonalizeRequest, PrewarmRequest, UmaskRequest,
};

use crate::support::{Guest, create, failure, within};

fn identity() -> PersonalizeRequest {
    PersonalizeRequest {
        entropy: vec![7; 32].into(),
        unix_time_nanos: 1_000_000_000,
        hostname: "somebody-else".into(),
        machine_id: "0123456789abcdef0123456789abcdef".into(),
        env: HashMap::from([("GIVEN".into(), "yes".into())]),
        ..PersonalizeRequest::default()
    }
}

#[tokio::test]
async fn says_who_it_is() {
    let guest = Guest::start().await;
    let mut client = guest.client.clone();
    let hello = client.hello(HelloRequest {}).await.unwrap().into_inner();
    assert_eq!(hello.agent_version, env!("CARGO_PKG_VERSION"));
    let release = guest.sh("uname -r").await.stdout;
    assert_eq!(hello.kernel_release, release.trim());
    assert!(!hello.personalized);
}

#[tokio::test]
async fn takes_an_identity_as_often_as_it_is_given() {
    let guest = Guest::start().await;
    let mut client = guest.client.clone();
    let before = guest
        .sh("hostname; cat /etc/machine-id /etc/hosts; date +%Y")
        .await;
    for _ in 0..2 {
        client.personalize(identity()).await.unwrap();
    }
    let hello = client.hello(HelloRequest {}).await.unwrap().into_inner();
    assert!(hello.personalized);
    assert_eq!(guest.sh("echo $GIVEN").await.stdout, "yes\n");
    let after = guest
        .sh("hostname; cat /etc/machine-id /etc/hosts; date +%Y")
        .await;
    assert_eq!(
        before.stdout, after.stdout,
        "the machine is not the agent's"
    );
}

#[tokio::test]
async fn refuses_half_an_identity() {
    let guest = Guest::start().await;
    let cases = [
        PersonalizeRequest {
            entropy: vec![7; 31].into(),
            ..identity()
        },
        PersonalizeRequest {
            hostname: String::new(),
            ..identity()
        },
        PersonalizeRequest {
            hostname: "a b".into(),
            ..identity()
        },
        PersonalizeRequest {
            hostname: "a".repeat(65),
            ..identity()
        },
        PersonalizeRequest {
            machine_id: "xyz".into(),
            ..identity()
        },
        PersonalizeRequest {
            machine_id: "G".repeat(32),
            ..identity()
        },
        PersonalizeRequest {
            env: HashMap::from([("A=".into(), "x".into())]),
            ..identity()
        },
    ];
    for request in cases {
        let refused = guest.client.clone().personalize(request.clone()).await;
        assert_eq!(failure(refused).kind, "invalid_argument", "{request:?}");
    }
    let mut client = guest.client.clone();
    assert!(
        !client
            .hello(HelloRequest {})
            .await
            .unwrap()
            .into_inner()
            .personalized
    );
}

#[tokio::test]
async fn warms_up_whatever_the_commands_come_to() {
    let guest = Guest::start().await;
    let commands = [
        "echo one > one",
        "exit 3",
        "kill -9 $$",
        "no-such",
        "echo two > two",
    ];
    let request = PrewarmRequest {
        shell_commands: commands.map(str::to_owned).into(),
        settle: true,
    };
    within(guest.client.clone().prewarm(request)).await.unwrap();
    assert_eq!(guest.read_text("one").await, "one\n");
    assert_eq!(guest.read_text("two").await, "two\n");
}

#[tokio::test]
async fn reports_usage() {
    let guest = Guest::start().await;
    let usage = guest
        .client
        .clone()
        .usage(Empty {})
        .await
        .unwrap()
        .into_inner();
    assert!(usage.memory_available_bytes <= usage.memory_total_bytes);
    assert!(usage.memory_available_bytes > 0 && usage.cpu_nanos > 0);
    assert!(usage.disk_free_bytes <= usage.disk_total_bytes && usage.disk_total_bytes > 0);
}

#[tokio::test]
async fn the_umask_holds_for_files_and_processes() {
    let guest = Guest::start().await;
    let umask = async |mask| {
        let request = UmaskRequest { mask };
        let reply = guest.client.clone().umask(request).await;
        reply.unwrap().into_inner().previous
    };
    assert_eq!(umask(None).await, 0o022);
    assert_eq!(umask(Some(0o077)).await, 0o022);
    assert_eq!(umask(None).await, 0o077);
    guest.write(create("mine"), b"").await.unwrap();
    let seen = guest
        .sh("umask; touch theirs; stat -c %a mine theirs")
        .await;
    assert_eq!(seen.stdout, "0077\n600\n600\n");
    assert_eq!(umask(Some(0xffff_ffff)).await, 0o077);
    assert_eq!(umask(None).await, 0o777);
}

#[tokio::test]
async fn the_environment_starts_as_a_login_has_it() {
    let guest = Guest::start().await;
    let key = |key: &str| EnvKey { key: key.into() };
    let mut client = guest.client.clone();
    let home = client.get_env(key("HOME")).await.unwrap().into_inner();
    assert_eq!(home.value.as_deref(), guest.home.to_str());
    for name in ["PATH", "USER", "LOGNAME", "SHELL", "LANG"] {
        let value = client.get_env(key(name)).await.unwrap().into_inner();
        assert!(value.value.is_some(), "{name}");
    }
}
