//! Open files by number, and their locks.

use std::time::Duration;

use bytes::Bytes;
use rustix::io::Errno;
use tombolo_guest_proto::v1::{
    HandleLockRequest, HandleReadReply, HandleReadRequest, HandleRequest, HandleSeekRequest,
    HandleSyncRequest, HandleTruncateRequest, HandleUtimeRequest, HandleWriteRequest, HelloRequest,
    OpenRequest,
};
use tonic::Status;

use crate::support::{Guest, errno, failure, until, within};

fn reading(path: &str) -> OpenRequest {
    OpenRequest {
        path: path.into(),
        read: true,
        ..OpenRequest::default()
    }
}

fn both(path: &str) -> OpenRequest {
    OpenRequest {
        write: true,
        create: true,
        ..reading(path)
    }
}

impl Guest {
    async fn open(&self, request: OpenRequest) -> Result<u64, Status> {
        let reply = within(self.client.clone().open(request)).await;
        reply.map(|reply| reply.into_inner().handle)
    }

    async fn handle_read(&self, handle: u64, length: u32) -> Result<HandleReadReply, Status> {
        let request = HandleReadRequest { handle, length };
        let reply = within(self.client.clone().handle_read(request)).await;
        reply.map(tonic::Response::into_inner)
    }

    async fn handle_write(&self, handle: u64, data: &str) -> Result<u64, Status> {
        let data = Bytes::copy_from_slice(data.as_bytes());
        let request = HandleWriteRequest { handle, data };
        let reply = within(self.client.clone().handle_write(request)).await;
        reply.map(|reply| reply.into_inner().written)
    }

    async fn seek(&self, handle: u64, offset: i64, whence: u32) -> Result<u64, Status> {
        let request = HandleSeekRequest {
            handle,
            offset,
            whence,
        };
        let reply = within(self.client.clone().handle_seek(request)).await;
        reply.map(|reply| reply.into_inner().position)
    }

    async fn close(&self, handle: u64) -> Result<(), Status> {
        let request = HandleRequest { handle };
        within(self.client.clone().handle_close(request))
            .await
            .map(drop)
    }

    async fn lock(&self, handle: u64, exclusive: bool) -> Result<(), Status> {
        let request = HandleLockRequest { handle, exclusive };
        self.client.clone().handle_lock(request).await.map(drop)
    }

    async fn unlock(&self, handle: u64) -> Result<(), Status> {
        let request = HandleRequest { handle };
        within(self.client.clone().handle_unlock(request))
            .await
            .map(drop)
    }
}

#[tokio::test]
async fn a_handle_has_a_position() {
    let guest = Guest::start().await;
    let handle = guest.open(both("f")).await.unwrap();
    assert_eq!(guest.handle_write(handle, "hello world").await.unwrap(), 11);
    let end = guest.handle_read(handle, 10).await.unwrap();
    assert_eq!((end.data.len(), end.end_of_file), (0, true));
    let seeks = [
        (0, 0, Ok(0)),
        (6, 1, Ok(6)),
        (-5, 2, Ok(6)),
        (-1, 0, Err(Errno::INVAL)),
        (-100, 1, Err(Errno::INVAL)),
        (0, 3, Err(Errno::INVAL)),
        (6, 0, Ok(6)),
    ];
    for (offset, whence, expected) in seeks {
        let position = guest.seek(handle, offset, whence).await;
        match expected {
            Ok(expected) => assert_eq!(position.unwrap(), expected, "{offset} {whence}"),
            Err(expected) => assert_eq!(errno(&position), expected.raw_os_error()),
        }
    }
    let data = guest.handle_read(handle, 3).await.unwrap();
    assert_eq!((&data.data[..], data.end_of_file), (&b"wor"[..], false));
    let data = guest.handle_read(handle, u32::MAX).await.unwrap();
    assert_eq!(data.data, "ld");
    let none = guest.handle_read(handle, 0).await.unwrap();
    assert_eq!((none.data.len(), none.end_of_file), (0, false));
    let mut client = guest.client.clone();
    let length = 5;
    client
        .handle_truncate(HandleTruncateRequest { handle, length })
        .await
        .unwrap();
    for data_only in [false, true] {
        let sync = HandleSyncRequest { handle, data_only };
        client.handle_sync(sync).await.unwrap();
    }
    let times = HandleUtimeRequest {
        handle,
        atime_nanos: 1,
        mtime_nanos: 2,
    };
    client.handle_utime(times).await.unwrap();
    let info = client.handle_stat(HandleRequest { handle }).await;
    let info = info.unwrap().into_inner();
    assert_eq!((info.size, info.mtime_nanos), (5, 2));
    guest.close(handle).await.unwrap();
    assert_eq!(guest.read_text("f").await, "hello");
}

#[tokio::test]
async fn a_file_opens_as_the_options_say() {
    let guest = Guest::start().await;
    guest.sh("echo old > f; mkdir d").await;
    let writing = |path: &str| OpenRequest {
        path: path.into(),
        write: true,
        ..OpenRequest::default()
    };
    let cases = [
        (reading("nope"), Err(Errno::NOENT)),
        (writing("nope"), Err(Errno::NOENT)),
        (reading("d"), Ok("old\n")),
        (writing("d"), Err(Errno::ISDIR)),
        (
            OpenRequest {
                create_new: true,
                ..writing("f")
            },
            Err(Errno::EXIST),
        ),
        (
            OpenRequest {
                append: true,
                path: "f".into(),
                ..OpenRequest::default()
            },
            Ok("old\n+"),
        ),
        (writing("f"), Ok("+ld\n+")),
        (
            OpenRequest {
                truncate: true,
                ..writing("f")
            },
            Ok("+"),
        ),
    ];
    for (request, expected) in cases {
        let opened = guest.open(request.clone()).await;
        match expected {
            Ok(content) => {
                let handle = opened.unwrap();
                let written = guest.handle_write(handle, "+").await;
                assert_eq!(written.is_ok(), !request.read, "{request:?}");
                guest.close(handle).await.unwrap();
                assert_eq!(guest.read_text("f").await, content, "{request:?}");
            }
            Err(expected) => assert_eq!(errno(&opened), expected.raw_os_error(), "{request:?}"),
        }
    }
    let senseless = [
        OpenRequest::default(),
        OpenRequest {
            create: true,
            ..reading("g")
        },
    ];
    for request in senseless {
        let error = failure(guest.open(request.clone()).await);
        assert_eq!(error.kind, "invalid_argument", "{request:?}");
    }
    let new = OpenRequest {
        mode: Some(0o4666),
        ..both("new")
    };
    guest.open(new).await.unwrap();
    let default = guest.open(both("default")).await.unwrap();
    let shown = guest.sh("stat -c %a new default").await.stdout;
    assert_eq!(shown, "4644\n644\n");
    let second = guest.open(both("default")).await.unwrap();
    assert!(second > default && default > 0);
}

#[tokio::test]
async fn an_unknown_handle_is_refused_everywhere() {
    let guest = Guest::start().await;
    let closed = guest.open(both("f")).await.unwrap();
    guest.close(closed).await.unwrap();
    let bad = Errno::BADF.raw_os_error();
    for handle in [closed, 0, u64::MAX] {
        let mut client = guest.client.clone();
        let request = HandleRequest { handle };
        let length = 0;
        let truncate = HandleTruncateRequest { handle, length };
        let data_only = false;
        let sync = HandleSyncRequest { handle, data_only };
        let times = HandleUtimeRequest {
            handle,
            atime_nanos: 0,
            mtime_nanos: 0,
        };
        let answers = [
            errno(&guest.close(handle).await),
            errno(&guest.handle_read(handle, 1).await),
            errno(&guest.handle_write(handle, "x").await),
            errno(&guest.seek(handle, 0, 0).await),
            errno(&guest.lock(handle, true).await),
            errno(&guest.unlock(handle).await),
            errno(&client.handle_stat(request).await),
            errno(&client.handle_truncate(truncate).await),
            errno(&client.handle_sync(sync).await),
            errno(&client.handle_utime(times).await),
        ];
        assert_eq!(answers, [bad; 10], "{handle}");
    }
}

#[tokio::test]
async fn locks_wait_for_each_other_and_for_nobody_else() {
    let guest = Guest::start().await;
    let [first, second, third] = [
        guest.open(both("f")).await.unwrap(),
        guest.open(both("f")).await.unwrap(),
        guest.open(both("f")).await.unwrap(),
    ];
    within(guest.lock(first, false)).await.unwrap();
    within(guest.lock(second, false)).await.unwrap();
    let mut waiting = Box::pin(guest.lock(third, true));
    let short = Duration::from_millis(150);
    assert!(tokio::time::timeout(short, &mut waiting).await.is_err());
    // Meanwhile everything else answers, that file too.
    within(guest.client.clone().hello(HelloRequest {}))
        .await
        .unwrap();
    guest.handle_write(third, "x").await.unwrap();
    guest.unlock(first).await.unwrap();
    assert!(tokio::time::timeout(short, &mut waiting).await.is_err());
    guest.unlock(second).await.unwrap();
    within(&mut waiting).await.unwrap();
    // A program sees the lock.
    let seen = guest.sh("flock -n f true; echo $?").await.stdout;
    assert_eq!(seen, "1\n");
    guest.close(third).await.unwrap();
    let seen = guest.sh("flock -n f true; echo $?").await.stdout;
    assert_eq!(seen, "0\n");
}

#[tokio::test]
async fn a_wait_for_a_lock_can_be_given_up() {
    let guest = Guest::start().await;
    let [first, second] = [
        guest.open(both("f")).await.unwrap(),
        guest.open(both("f")).await.unwrap(),
    ];
    let short = Duration::from_millis(100);
    let agent = guest.agent_pid();
    let waiters = async || {
        let threads = fs_err::read_dir(format!("/proc/{agent}/task")).unwrap();
        let names = threads.map(|thread| thread.unwrap().path().join("comm"));
        let names = names.filter_map(|name| fs_err::read_to_string(name).ok());
        names.filter(|name| name == "lock\n").count()
    };
    within(guest.lock(first, true)).await.unwrap();
    for _ in 0..20 {
        let waiting = guest.lock(second, true);
        assert!(tokio::time::timeout(short, waiting).await.is_err());
    }
    until(async || (waiters().await == 0).then_some(())).await;
    guest.unlock(first).await.unwrap();
    // Nobody that gave up holds it now.
    within(guest.lock(first, true)).await.unwrap();
    let closing = async {
        until(async || (waiters().await == 1).then_some(())).await;
        guest.close(second).await.unwrap();
    };
    let (locked, ()) = tokio::join!(within(guest.lock(second, true)), closing);
    assert_eq!(errno(&locked), Errno::BADF.raw_os_error());
    until(async || (waiters().await == 0).then_some(())).await;
}
