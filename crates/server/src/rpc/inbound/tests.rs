//! The table of client streams without a connection around it.

use std::time::Duration;

use super::*;

fn streams() -> Arc<InboundStreams> {
    Arc::new(InboundStreams::new(
        RpcLimits {
            inbound_buffer_max: 100,
            orphan_buffer_max: 20,
            inbound_streams_max: 4,
            stall_max: Duration::from_secs(10),
            spill_len_max: 0,
            ..RpcLimits::default()
        },
        Arc::default(),
    ))
}

fn bytes(len: usize) -> Bytes {
    Bytes::from(vec![7; len])
}

async fn read_all(mut stream: InboundStream) -> Result<usize, String> {
    let mut len = 0;
    while let Some(chunk) = stream.next().await {
        len += chunk.map_err(|error| error.message)?.len();
    }
    Ok(len)
}

#[tokio::test(start_paused = true)]
async fn a_stream_may_come_before_or_after_the_call() {
    let before = streams();
    before.start(0);
    before.push(0, bytes(3)).await;
    before.push(0, Bytes::new()).await;
    before.push(0, bytes(4)).await;
    before.finish(0, Ok(()));
    assert_eq!(read_all(before.claim(0).unwrap()).await, Ok(7));

    let after = streams();
    let reading = tokio::spawn(read_all(after.claim(9).unwrap()));
    tokio::task::yield_now().await;
    after.start(9);
    after.push(9, bytes(5)).await;
    tokio::task::yield_now().await;
    after.finish(9, Ok(()));
    assert_eq!(reading.await.unwrap(), Ok(5));
}

#[tokio::test(start_paused = true)]
async fn an_error_reaches_the_reader_after_the_data() {
    let streams = streams();
    streams.start(1);
    streams.push(1, bytes(3)).await;
    streams.finish(1, Err(Box::new(ErrorObject::new("Error", "boom"))));
    let mut reader = streams.claim(1).unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap().len(), 3);
    assert_eq!(reader.next().await.unwrap().unwrap_err().message, "boom");
}

#[tokio::test(start_paused = true)]
async fn a_stream_has_one_reader() {
    let streams = streams();
    let reader = streams.claim(1).unwrap();
    assert!(streams.claim(1).is_err());
    drop(reader);
    assert!(streams.claim(1).is_err(), "its data is gone");
    streams.start(1);
    assert!(streams.claim(1).is_ok(), "the id begins anew");
}

#[tokio::test(start_paused = true)]
async fn data_nobody_reads_is_cancelled_once() {
    let streams = streams();
    streams.start(1);
    drop(streams.claim(1).unwrap());
    assert_eq!(streams.push(1, bytes(1)).await, Advice::Cancel);
    assert_eq!(streams.push(1, bytes(1)).await, Advice::Nothing);
    streams.finish(1, Ok(()));
    assert_eq!(streams.push(1, bytes(1)).await, Advice::Nothing);
    assert!(streams.table.lock().streams.is_empty());
}

#[tokio::test(start_paused = true)]
async fn data_without_a_start_is_dropped() {
    let streams = streams();
    assert_eq!(streams.push(1, bytes(1)).await, Advice::Nothing);
    streams.finish(1, Ok(()));
    assert!(streams.table.lock().streams.is_empty());
}

#[test]
fn the_number_of_streams_is_bounded() {
    let streams = streams();
    for id in 0..4 {
        assert_eq!(streams.start(id), Advice::Nothing, "{id}");
    }
    assert_eq!(streams.start(4), Advice::Cancel);
    streams.finish(0, Ok(()));
    drop(streams.claim(0).unwrap());
    assert_eq!(streams.start(4), Advice::Nothing);
}

#[tokio::test(start_paused = true)]
async fn a_stream_nobody_names_is_given_up() {
    let streams = streams();
    streams.start(1);
    for expected in [
        Advice::Nothing,
        Advice::Nothing,
        Advice::Nothing,
        Advice::Cancel,
        Advice::Nothing,
    ] {
        assert_eq!(streams.push(1, bytes(10)).await, expected);
    }
    assert_eq!(streams.table.lock().buffered.get(), 0);
    streams.finish(1, Ok(()));
    let error = read_all(streams.claim(1).unwrap()).await.unwrap_err();
    assert!(error.contains("before any call"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn too_much_data_waits_for_the_reader() {
    let streams = streams();
    streams.start(1);
    let mut reader = streams.claim(1).unwrap();
    streams.push(1, bytes(100)).await;
    streams.room().await;
    streams.push(1, bytes(1)).await;
    let waiting = tokio::spawn({
        let streams = Arc::clone(&streams);
        async move { streams.room().await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    assert_eq!(reader.next().await.unwrap().unwrap().len(), 100);
    waiting.await.unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stalls_loses_its_stream() {
    let streams = streams();
    streams.start(1);
    streams.start(2);
    let slow = streams.claim(1).unwrap();
    let small = streams.claim(2).unwrap();
    streams.push(2, bytes(10)).await;
    streams.push(1, bytes(95)).await;
    streams.room().await;
    assert_eq!(streams.push(1, bytes(1)).await, Advice::Cancel);
    streams.finish(2, Ok(()));
    assert!(read_all(slow).await.is_err());
    assert_eq!(read_all(small).await, Ok(10));
    assert_eq!(streams.table.lock().buffered.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn orphans_give_way_when_nothing_else_can() {
    let streams = streams();
    for id in 0..4 {
        streams.start(id);
        streams.push(id, bytes(30)).await;
    }
    streams.room().await;
    assert!(streams.table.lock().buffered.get() <= 100);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_ends_makes_room() {
    let streams = streams();
    streams.start(1);
    let reader = streams.claim(1).unwrap();
    streams.push(1, bytes(200)).await;
    let waiting = tokio::spawn({
        let streams = Arc::clone(&streams);
        async move { streams.room().await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(reader);
    waiting.await.unwrap();
}

#[tokio::test]
async fn data_of_a_reader_that_stalls_waits_on_disk() {
    let directory = tempfile::tempdir().unwrap();
    let streams = Arc::new(InboundStreams::new(
        RpcLimits {
            inbound_buffer_max: 100,
            stall_max: Duration::from_millis(1),
            spill_len_max: 1000,
            spill_directory: directory.path().into(),
            ..RpcLimits::default()
        },
        Arc::default(),
    ));
    for turn in 0..3 {
        streams.start(1);
        let mut reader = streams.claim(1).unwrap();
        let mut sent = Vec::new();
        for value in 0..90_u8 {
            let data = vec![value; 11];
            sent.extend_from_slice(&data);
            streams.push(1, data.into()).await;
            streams.room().await;
        }
        streams.finish(1, Ok(()));
        assert!(streams.table.lock().buffered.get() <= 100);
        let mut read = Vec::new();
        while let Some(data) = reader.next().await {
            read.extend_from_slice(&data.unwrap());
        }
        assert!(read == sent, "turn {turn}");
        drop(reader);
        assert!(streams.table.lock().streams.is_empty());
    }
}

#[tokio::test]
async fn a_reader_that_catches_up_leaves_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let streams = Arc::new(InboundStreams::new(
        RpcLimits {
            inbound_buffer_max: 10,
            stall_max: Duration::from_millis(1),
            spill_directory: directory.path().into(),
            ..RpcLimits::default()
        },
        Arc::default(),
    ));
    streams.start(1);
    let mut reader = streams.claim(1).unwrap();
    streams.push(1, bytes(20)).await;
    streams.room().await;
    assert_eq!(reader.next().await.unwrap().unwrap().len(), 20);
    assert!(futures_util::FutureExt::now_or_never(reader.next()).is_none());
    streams.push(1, bytes(5)).await;
    assert_eq!(streams.table.lock().buffered.get(), 5);
    assert_eq!(reader.next().await.unwrap().unwrap().len(), 5);
}
