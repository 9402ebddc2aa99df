//! The process as a node and a control plane see it: sockets that are handed over, calls,
//! and a restart in between.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket},
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    sync::{Arc, atomic::AtomicU64},
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde_json::{Value, json};
use tokio::time::timeout;
use tombolo_ids::{Region, SandboxId};
use tombolo_node_proto::{
    egress::{
        AttachRequest, ChangeSecretsRequest, ExplainHeader, ExplainRequest, PublicKeyRequest,
        RetainRequest, SandboxRef, Secret, SetPolicyRequest, StatsRequest,
        egress_server::Egress as _,
    },
    handover::{self, SlotSockets},
};
use tombolo_policy::OperatorRules;
use tombolo_secret::{Placeholder, SealingKey, SecretContext, SecretName, SecretValue};
use tombolo_substitute::{Destination, Flow, Scheme, ScrubMode};
use tonic::{Code, Request};

use super::rig::{CANARY, PATIENCE, Rig, policy};
use crate::{
    audit::Audit,
    clock::Clock,
    control::{Control, Descriptors, open_descriptors},
    counters::Counters,
    registry::Registry,
    rules::Rules,
    sandbox::Shared,
    store::Store,
    upstream::{Identities, Resolver},
};

type Headers<'a> = &'a [(&'a str, &'a str)];

/// A process with its state in a directory.
fn start(directory: &Path) -> Control {
    let counters = Arc::new(Counters::default());
    let (audit, lines) = Audit::new(Arc::clone(&counters), "t".to_owned());
    // Nobody reads the records here; the queue must not be closed for that.
    Box::leak(Box::new(lines));
    let shared = Arc::new(Shared {
        clock: Clock::start(),
        audit,
        counters,
        operator: OperatorRules::closed(),
        resolver: Resolver::Table(Arc::default()),
        roots: Arc::new(rustls::RootCertStore::empty()),
        identities: Identities::default(),
        flow_serial: AtomicU64::new(0),
    });
    let (store, key) = Store::open(directory).unwrap();
    let descriptors = Arc::new(Descriptors::default());
    let socket = directory.join("descriptors.sock");
    std::fs::remove_file(&socket).ok();
    let listener = tokio::net::UnixListener::from_std(open_descriptors(&socket).unwrap()).unwrap();
    tokio::spawn(Arc::clone(&descriptors).serve(listener));
    Control {
        registry: Arc::new(Registry::new(shared, store, key)),
        descriptors,
    }
}

/// Hands sockets over as a node does.
fn hand_over(directory: &Path, sandbox: &SandboxId) -> OwnedFd {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    );
    let socket = socket.unwrap();
    let address = SocketAddrUnix::new(directory.join("descriptors.sock")).unwrap();
    connect(&socket, &address).unwrap();
    let tcp4 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let tcp6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let udp4 = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let udp6 = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let sockets = SlotSockets {
        tcp4: tcp4.as_fd(),
        tcp6: tcp6.as_fd(),
        udp4: udp4.as_fd(),
        udp6: udp6.as_fd(),
    };
    handover::send(&socket, sandbox, &sockets).unwrap();
    socket
}

async fn attach(
    control: &Control,
    id: &SandboxId,
    policy: Option<&Value>,
    secrets: Vec<Secret>,
) -> Result<String, tonic::Status> {
    let request = AttachRequest {
        sandbox_id: id.to_string(),
        organisation: "o1".to_owned(),
        labels: std::collections::HashMap::new(),
        policy_json: policy.map(ToString::to_string).unwrap_or_default(),
        secrets,
    };
    let attached = timeout(PATIENCE, control.attach(Request::new(request)))
        .await
        .unwrap();
    attached.map(|reply| reply.into_inner().ca_certificate_pem)
}

async fn sealed(control: &Control, id: &SandboxId) -> Secret {
    sealed_as(control, id, "KEY", [0xa7; 32]).await
}

async fn sealed_as(control: &Control, id: &SandboxId, name: &str, random: [u8; 32]) -> Secret {
    let key = control
        .public_key(Request::new(PublicKeyRequest {}))
        .await
        .unwrap();
    let key = SealingKey::from_bytes(&key.into_inner().key).unwrap();
    let name = SecretName::parse(name).unwrap();
    let context = SecretContext {
        organisation: "o1",
        sandbox: id.as_str(),
        name: &name,
    };
    let value = SecretValue::new(CANARY.to_owned()).unwrap();
    Secret {
        name: name.to_string(),
        placeholder: Placeholder::from_bytes(random).to_string(),
        sealed: key.seal(&value, &context).unwrap().into(),
    }
}

#[tokio::test]
async fn a_sandbox_lives_through_a_restart_with_its_authority_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let id = SandboxId::random(Region::DEFAULT).unwrap();
    let control = start(directory.path());
    let node = hand_over(directory.path(), &id);
    let secret = sealed(&control, &id).await;
    let pem = attach(&control, &id, Some(&policy(|_| {})), vec![secret])
        .await
        .unwrap();
    control.registry.close().await;
    drop((control, node));

    let control = start(directory.path());
    let _node = hand_over(directory.path(), &id);
    let again = attach(&control, &id, None, Vec::new()).await.unwrap();
    assert_eq!(pem, again);
    let rules = control.registry.find(id.as_str()).unwrap().rules();
    assert!(!rules.secrets.is_empty());
    let reference = SandboxRef {
        sandbox_id: id.to_string(),
    };
    control
        .detach(Request::new(reference.clone()))
        .await
        .unwrap();
    control
        .detach(Request::new(reference.clone()))
        .await
        .unwrap();
    let gone = control
        .ca_certificate(Request::new(reference))
        .await
        .unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    let kept = std::fs::read_dir(directory.path().join("sandboxes"))
        .unwrap()
        .count();
    assert_eq!(kept, 0);
}

#[tokio::test]
async fn what_is_not_valid_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let [id, other] = [(); 2].map(|()| SandboxId::random(Region::DEFAULT).unwrap());
    let control = start(directory.path());
    let _node = hand_over(directory.path(), &id);
    // A secret that was sealed for another sandbox.
    let stolen = sealed(&control, &other).await;
    let refused = attach(&control, &id, Some(&policy(|_| {})), vec![stolen])
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(!refused.message().contains(CANARY));
    let _node = hand_over(directory.path(), &id);
    let secret = sealed(&control, &id).await;
    attach(&control, &id, Some(&policy(|_| {})), vec![secret])
        .await
        .unwrap();
    for policy_json in [
        "",
        "{",
        "{\"version\":9}",
        "{\"version\":1,\"unknown\":1}",
        "{\"version\":1,\"allow_net\":[\"*\"]}",
    ] {
        let request = SetPolicyRequest {
            sandbox_id: id.to_string(),
            policy_json: policy_json.to_owned(),
        };
        let refused = control.set_policy(Request::new(request)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{policy_json}");
    }
    let explain = ExplainRequest {
        sandbox_id: id.to_string(),
        method: "GET".to_owned(),
        url: "https://good.test/x".to_owned(),
        ..ExplainRequest::default()
    };
    let explained = control
        .explain(Request::new(explain))
        .await
        .unwrap()
        .into_inner();
    let explained: Value = serde_json::from_str(&explained.explanation_json).unwrap();
    assert_eq!(explained["connect"]["verdict"], "allow");
    assert_eq!(explained["secrets"], json!(["KEY"]));
    let stats = control
        .stats(Request::new(StatsRequest::default()))
        .await
        .unwrap()
        .into_inner();
    assert!(
        stats
            .prometheus
            .contains("tombolo_egress_dropped_records_total 0")
    );
}

#[tokio::test]
async fn headers_and_the_body_are_part_of_what_is_explained() {
    let directory = tempfile::tempdir().unwrap();
    let id = SandboxId::random(Region::DEFAULT).unwrap();
    let control = start(directory.path());
    let _node = hand_over(directory.path(), &id);
    let document = policy(|document| {
        document["net"] = json!({ "rules": [{
            "id": "small", "host": "good.test", "method": "POST",
            "headers": { "X-Team": "a" }, "json": { "/model": { "equals": "small" } },
        }] });
    });
    let secret = sealed(&control, &id).await;
    attach(&control, &id, Some(&document), vec![secret])
        .await
        .unwrap();
    let json_type = ("content-type", "application/json");
    let team = ("x-team", "a");
    let small = Some(r#"{"model": "small"}"#);
    let cases: [(Headers<'_>, Option<&str>, &str); 5] = [
        (&[json_type, team], small, "allow"),
        (&[json_type, team], Some(r#"{"model": "large"}"#), "deny"),
        (&[json_type], small, "deny"),
        (&[team], small, "deny"),
        (&[json_type, team], None, "deny"),
    ];
    for (headers, body, verdict) in cases {
        let headers = headers.iter().map(|(name, value)| ExplainHeader {
            name: (*name).to_owned(),
            value: (*value).to_owned(),
        });
        let explain = ExplainRequest {
            sandbox_id: id.to_string(),
            method: "POST".to_owned(),
            url: "https://good.test/x".to_owned(),
            headers: headers.collect(),
            body: body.map(|text| text.to_owned().into()),
        };
        let explained = control.explain(Request::new(explain)).await.unwrap();
        let explained: Value =
            serde_json::from_str(&explained.into_inner().explanation_json).unwrap();
        assert_eq!(explained["request"]["verdict"], verdict, "{explained}");
    }
}

/// What cannot be forgotten keeps neither the others nor the node.
#[tokio::test]
async fn a_record_that_cannot_be_removed_is_not_in_the_way_of_others() {
    let directory = tempfile::tempdir().unwrap();
    let control = start(directory.path());
    let ids: Vec<String> = (0..8)
        .map(|_| SandboxId::random(Region::DEFAULT).unwrap().to_string())
        .collect();
    let (stuck, dead) = ids.split_at(4);
    let path = |id: &String| directory.path().join("sandboxes").join(id);
    // No directory can be removed as a file, by root either.
    for id in stuck {
        fs_err::create_dir(path(id)).unwrap();
    }
    for id in dead {
        fs_err::write(path(id), "").unwrap();
    }
    let request = RetainRequest {
        sandbox_ids: Vec::new(),
    };
    let reply = control.retain(Request::new(request)).await.unwrap();
    let mut detached = reply.into_inner().detached;
    detached.sort();
    let mut dead = dead.to_vec();
    dead.sort();
    assert_eq!(detached, dead);
    assert!(dead.iter().all(|id| !path(id).exists()));
}

#[tokio::test]
async fn secrets_are_given_and_revoked_one_by_one() {
    let directory = tempfile::tempdir().unwrap();
    let id = SandboxId::random(Region::DEFAULT).unwrap();
    let control = start(directory.path());
    let _node = hand_over(directory.path(), &id);
    let secret = sealed(&control, &id).await;
    attach(&control, &id, Some(&policy(|_| {})), vec![secret])
        .await
        .unwrap();
    let both = policy(|document| {
        document["secrets"]["OTHER"] = json!({ "hosts": ["good.test"] });
    });
    // What is given and what is revoked, whether a policy comes along, and whether any secret
    // can be used afterwards. Each step is on top of the one before.
    let steps: [(&[&str], &[&str], bool, bool); 5] = [
        (&["OTHER"], &["KEY"], true, true),
        (&[], &["OTHER", "UNKNOWN"], false, false),
        (&["KEY"], &[], false, true),
        (&["KEY"], &["KEY"], false, true),
        (&[], &["KEY"], false, false),
    ];
    for (step, (given, revoked, with_policy, is_usable)) in steps.into_iter().enumerate() {
        let mut secrets = Vec::new();
        for name in given {
            let random = [name.len().try_into().unwrap(); 32];
            secrets.push(sealed_as(&control, &id, name, random).await);
        }
        let request = ChangeSecretsRequest {
            sandbox_id: id.to_string(),
            given: secrets,
            revoked: revoked.iter().map(ToString::to_string).collect(),
            policy_json: if with_policy {
                both.to_string()
            } else {
                String::new()
            },
        };
        control.change_secrets(Request::new(request)).await.unwrap();
        let rules = control.registry.find(id.as_str()).unwrap().rules();
        assert_eq!(rules.secret_generation, 2 + step as u64, "{step}");
        let eligibility = rules.eligibility(&Destination {
            host: "good.test",
            port: 443,
            scheme: Scheme::Https,
            flow: Flow::Terminated,
        });
        assert_eq!(!eligibility.is_empty(), is_usable, "{step}");
        // A revoked secret stays known: responses are searched for it.
        let sandbox = control.registry.find(id.as_str()).unwrap();
        let scrubbed = sandbox.scrub(&rules, ScrubMode::Placeholder, CANARY.as_bytes());
        assert!(scrubbed.is_some(), "{step}");
    }
    let unknown = ChangeSecretsRequest::default();
    let refused = control.change_secrets(Request::new(unknown)).await;
    assert_eq!(refused.unwrap_err().code(), Code::NotFound);
}

/// What a policy says of a host is not held against a secret that was revoked before.
#[tokio::test]
async fn a_revoked_secret_is_in_the_way_of_no_policy() {
    let directory = tempfile::tempdir().unwrap();
    let id = SandboxId::random(Region::DEFAULT).unwrap();
    let control = start(directory.path());
    let _node = hand_over(directory.path(), &id);
    let secret = sealed(&control, &id).await;
    attach(&control, &id, Some(&policy(|_| {})), vec![secret])
        .await
        .unwrap();
    let passing = policy(|document| document["net"] = json!({ "passthrough": ["good.test"] }));
    let elsewhere = policy(|document| document["allow_net"] = json!(["old.test"]));
    let set = async |document: &Value| {
        let request = SetPolicyRequest {
            sandbox_id: id.to_string(),
            policy_json: document.to_string(),
        };
        let set = control.set_policy(Request::new(request)).await;
        set.map(|reply| reply.into_inner().warnings)
    };
    let refused = set(&passing).await.unwrap_err();
    assert!(refused.message().contains("secret `KEY`"), "{refused:?}");
    assert_eq!(set(&elsewhere).await.unwrap().len(), 1);
    let request = ChangeSecretsRequest {
        sandbox_id: id.to_string(),
        revoked: vec!["KEY".to_owned()],
        ..ChangeSecretsRequest::default()
    };
    control.change_secrets(Request::new(request)).await.unwrap();
    for document in [&passing, &elsewhere] {
        assert_eq!(set(document).await.unwrap(), [""; 0]);
    }
}

/// A URL, what is said of its connection, whether TLS ends here, what is said of the request,
/// and the step that refuses.
type Explained = (
    &'static str,
    &'static str,
    bool,
    Option<&'static str>,
    Option<&'static str>,
);

const EXPLAINED: [Explained; 10] = [
    (
        "https://good.test/x",
        "allow",
        true,
        Some("deny"),
        Some("request"),
    ),
    ("tcp://good.test:443", "allow", false, None, Some("raw")),
    (
        "https://93.184.216.34/x",
        "allow",
        false,
        Some("allow"),
        None,
    ),
    (
        "https://93.184.216.34:444/x",
        "deny",
        false,
        None,
        Some("connect"),
    ),
    (
        "http://[2606:4700::1]/",
        "deny",
        false,
        None,
        Some("connect"),
    ),
    ("http://evil.test/", "deny", false, None, Some("dns")),
    (
        "tcp://169.254.169.254:80",
        "deny",
        false,
        None,
        Some("connect"),
    ),
    (
        "tcp://[::ffff:10.0.0.1]:22",
        "deny",
        false,
        None,
        Some("connect"),
    ),
    ("tcp://db.test:5432", "allow", false, None, None),
    ("tcp://db.test:5433", "deny", false, None, Some("connect")),
];

/// What is explained of a URL or a connection, by names, addresses and addresses of ours.
#[tokio::test]
async fn connections_to_addresses_are_explained() {
    let rig = Rig::new(policy(|document| {
        document["allow_net"] = json!(["good.test", "93.184.216.34:443", "db.test:5432"]);
        document["net"] = json!({"rules": [{"id": "r", "host": "good.test", "method": "GET"}]});
    }))
    .await;
    let virtual_address = rig.address_of("good.test");
    let explain = |url: &str| {
        let asked = ExplainRequest {
            method: "POST".to_owned(),
            url: url.to_owned(),
            ..ExplainRequest::default()
        };
        crate::control::explain::explain(&rig.sandbox, &asked)
    };
    for (url, connect, terminated, request, refused_by) in EXPLAINED {
        let said = explain(url).unwrap();
        assert_eq!(said["connect"]["verdict"], connect, "{url}: {said}");
        assert_eq!(said["terminated"], terminated, "{url}: {said}");
        assert_eq!(
            said["request"]["verdict"].as_str(),
            request,
            "{url}: {said}"
        );
        assert_eq!(said["refused_by"].as_str(), refused_by, "{url}: {said}");
        let verdict = if refused_by.is_none() {
            "allow"
        } else {
            "deny"
        };
        assert_eq!(said["verdict"], verdict, "{url}: {said}");
    }
    let said = explain(&format!("https://{virtual_address}/x")).unwrap();
    assert_eq!(said["name"], "good.test");
    assert_eq!(said["secrets"], json!(["KEY"]));
    assert_eq!(
        explain("https://93.184.216.34/").unwrap()["address"],
        "93.184.216.34"
    );
    for url in [
        "/x",
        "ftp://good.test/",
        "tcp://good.test",
        "https://198.19.7.7/",
        "https://0x7f.1/",
    ] {
        assert!(explain(url).is_err(), "{url}");
    }
    rig.finish(0).await;
}

/// A form of placeholder that is not built is refused and not passed over.
#[test]
fn placeholders_have_one_form() {
    for form in [json!({"shape": "sk-{}"}), json!({"same_length": true})] {
        let document = policy(|document| document["secrets"]["KEY"]["placeholder"] = form);
        let document = serde_json::from_value(document).unwrap();
        let operator = OperatorRules::closed();
        let refused = Rules::build(&document, &[], &operator, &BTreeMap::new(), 1).unwrap_err();
        assert!(
            refused
                .to_string()
                .contains("placeholder of the secret KEY"),
            "{refused}"
        );
    }
}
