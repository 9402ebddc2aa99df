//! A set-up that is killed while it makes the real root image.
#![expect(
    clippy::tests_outside_test_module,
    reason = "all of this file is a test"
)]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::time::{sleep, timeout};
use tombolo_e2e::{half_set_up, host, set_up};

/// The packages are fetched and installed twice, the first time not to the end.
const LIMIT: Duration = Duration::from_mins(8);
/// How long what a killed set-up had started may take to be gone.
const GONE_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// In the log while programs run inside the half-made root, with file systems
/// mounted in it.
const WORDS: &str = "installing remaining packages inside the chroot";

#[tokio::test]
async fn a_set_up_killed_while_it_makes_the_image_leaves_nothing_and_the_next_finishes() {
    let outcome = timeout(LIMIT, kill_and_finish()).await;
    outcome.unwrap().unwrap();
}

async fn kill_and_finish() -> anyhow::Result<()> {
    let state = half_set_up().await?;
    let name = state.path().file_name().context("it has a name")?;
    let name = name.to_string_lossy();
    let log = state.path().join("log/setup.log");
    let mut first = set_up(state.path())?.spawn(Stdio::null(), Stdio::null(), Stdio::null())?;
    while !fs_err::read_to_string(&log).is_ok_and(|log| log.contains(WORDS)) {
        let ended = first.try_wait()?;
        ensure!(ended.is_none(), "it ended before it could be killed");
        sleep(LOOK_EVERY).await;
    }
    ensure!(traces(&name) > 0, "nothing would be found either way");
    first.kill().await?;
    let gone = async {
        while traces(&name) > 0 {
            sleep(LOOK_EVERY).await;
        }
    };
    timeout(GONE_MAX, gone).await.context("something stays")?;
    let made = artefacts(state.path())?;
    ensure!(!made.contains(&"guest".to_owned()), "{made:?}");
    ensure!(made.contains(&".unfinished".to_owned()), "{made:?}");

    set_up(state.path())?.run().await?;
    let made = artefacts(state.path())?;
    let all = [".lock", "engine", "guest", "initramfs", "manifest.json"];
    ensure!(made == all, "{made:?}");
    ensure!(traces(&name) == 0, "something stays");
    Ok(())
}

/// How many processes mention the directory in their command line, or see a
/// mount that does.
fn traces(name: &str) -> usize {
    let involved = |process: &host::Process| {
        let mounts = fs_err::read_to_string(format!("/proc/{}/mountinfo", process.pid));
        process.command.iter().any(|word| word.contains(name))
            || mounts.is_ok_and(|mounts| mounts.contains(name))
    };
    host::processes().iter().filter(|one| involved(one)).count()
}

/// What is in the directory of artefacts, without keys and process ids.
fn artefacts(state: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs_err::read_dir(state.join("artefacts"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.push(name.split('-').next().unwrap_or_default().to_owned());
    }
    names.sort();
    Ok(names)
}
