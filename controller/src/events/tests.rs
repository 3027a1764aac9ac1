use std::task::{Context, Poll, Waker};

use futures::{FutureExt as _, Stream as _, StreamExt as _};

use super::*;
use crate::store::v1::PodRecord;
use crate::view::PodPhase;

fn event(pod: &str, subject: &str, kind: Kind) -> PodEvent {
    let record = PodRecord {
        id: pod.into(),
        ..PodRecord::default()
    };
    let pod = PodView {
        record: Arc::new(record),
        phase: PodPhase::Ready,
        containers: Vec::new(),
        monitor: None,
        listed: Default::default(),
    };
    PodEvent {
        subject: subject.into(),
        kind,
        created_at: 1,
        pod: Arc::new(pod),
    }
}

fn publish(hub: &Hub, subject: &str, kind: Kind) {
    hub.publish(subject, kind, || event("pod", subject, kind));
}

/// What can be read without waiting.
fn read(subscription: &mut Subscription) -> Vec<Result<(String, Kind), Ended>> {
    let mut read = Vec::new();
    while let Some(Some(item)) = subscription.next().now_or_never() {
        read.push(item.map(|event| (event.subject.clone(), event.kind)));
    }
    read
}

#[test]
fn every_subscriber_gets_what_happens_after_it_came() {
    let hub = Hub::default();
    publish(&hub, "before", Kind::Created);
    let mut first = hub.subscribe();
    publish(&hub, "a", Kind::Created);
    let mut second = hub.subscribe();
    publish(&hub, "a", Kind::Started);
    let (created, started) = (
        Ok(("a".into(), Kind::Created)),
        Ok(("a".into(), Kind::Started)),
    );
    assert_eq!(read(&mut first), [created, started.clone()]);
    assert_eq!(read(&mut second), [started]);
}

#[test]
fn nothing_is_built_without_a_subscriber() {
    let hub = Hub::default();
    let built = std::cell::Cell::new(0);
    let build = || {
        built.set(built.get() + 1);
        event("pod", "a", Kind::Created)
    };
    hub.publish("a", Kind::Created, build);
    let subscription = hub.subscribe();
    drop(subscription);
    assert_eq!(hub.subscribers(), 0);
    hub.publish("a", Kind::Created, build);
    assert_eq!(built.get(), 0);
    let _subscription = hub.subscribe();
    hub.publish("a", Kind::Created, build);
    assert_eq!(built.get(), 1);
}

#[test]
fn one_that_does_not_read_is_ended_and_others_are_not() {
    let hub = Hub::default();
    let (mut stalled, mut reader) = (hub.subscribe(), hub.subscribe());
    let mut heard = 0;
    for _ in 0..=QUEUE {
        publish(&hub, "a", Kind::Created);
        heard += read(&mut reader).iter().flatten().count();
    }
    assert_eq!(heard, QUEUE + 1);
    assert_eq!(hub.subscribers(), 1);
    assert_eq!(read(&mut stalled), [Err(Ended::Stalled)]);
    assert!(
        stalled
            .next()
            .now_or_never()
            .is_some_and(|end| end.is_none())
    );
    publish(&hub, "a", Kind::Deleted);
    assert_eq!(read(&mut reader), [Ok(("a".into(), Kind::Deleted))]);
}

#[test]
fn a_full_queue_is_not_a_stalled_one() {
    let hub = Hub::default();
    let mut late = hub.subscribe();
    for _ in 0..QUEUE {
        publish(&hub, "a", Kind::Created);
    }
    let all = read(&mut late);
    assert_eq!(all.len(), QUEUE);
    assert!(all.iter().all(Result::is_ok));
}

#[test]
fn a_waiting_subscriber_is_woken() {
    struct Flag(std::sync::atomic::AtomicBool);
    impl std::task::Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, std::sync::atomic::Ordering::SeqCst);
        }
    }
    let hub = Hub::default();
    for act in [
        (|hub: &Hub| publish(hub, "a", Kind::Created)) as fn(&Hub),
        Hub::close,
    ] {
        let mut subscription = hub.subscribe();
        let flag = Arc::new(Flag(false.into()));
        let waker = Waker::from(flag.clone());
        let mut context = Context::from_waker(&waker);
        let polled = std::pin::Pin::new(&mut subscription).poll_next(&mut context);
        assert!(matches!(polled, Poll::Pending));
        act(&hub);
        assert!(flag.0.load(std::sync::atomic::Ordering::SeqCst));
    }
}

#[test]
fn the_first_subscriber_gets_what_was_missed() {
    let hub = Hub::default();
    hub.publish_missed(event("pod", "a", Kind::Stopped));
    hub.publish_missed(event("pod", "b", Kind::Stopped));
    hub.publish_missed(event("other", "c", Kind::Stopped));
    // A removed container, and all of a removed pod, are no news any more.
    publish(&hub, "b", Kind::Deleted);
    publish(&hub, "other", Kind::Deleted);
    let mut first = hub.subscribe();
    publish(&hub, "a", Kind::Deleted);
    let expected = [Kind::Stopped, Kind::Deleted].map(|kind| Ok(("a".to_owned(), kind)));
    assert_eq!(read(&mut first), expected);
    assert!(read(&mut hub.subscribe()).is_empty());
}

#[test]
fn a_closed_hub_ends_everyone_after_what_they_have() {
    let hub = Hub::default();
    let mut before = hub.subscribe();
    publish(&hub, "a", Kind::Created);
    hub.close();
    publish(&hub, "a", Kind::Started);
    let stopping = Err(Ended::Stopping);
    assert_eq!(
        read(&mut before),
        [Ok(("a".into(), Kind::Created)), stopping.clone()]
    );
    assert_eq!(read(&mut hub.subscribe()), [stopping]);
}

#[test]
fn times_rise_whatever_the_clock_does() {
    let mut clock = EventClock::default();
    let times: Vec<i64> = [5, 5, 3, 10, 10].map(|now| clock.next(now)).into();
    assert_eq!(times, [5, 6, 7, 10, 11]);
}
