//! The driver's news: for subscribers (`events/`), and for the statistics, which keep files of what
//! lives. Every function here is called right after the view was published that shows the change.

use std::sync::Arc;

use super::Driver;
use crate::clock::now;
use crate::events::{Kind, PodEvent};
use crate::pod::News;
use crate::view::PodView;

impl Driver {
    /// The first news of a pod that was just entered.
    pub(in crate::pod) fn announce(&mut self, news: News) {
        match news {
            News::Made => {
                self.tell_pod(Kind::Created);
                self.tell_pod(Kind::Started);
            }
            News::Missed(changes) => {
                for (subject, kind) in changes {
                    let event = self.pod_event(&subject, kind);
                    self.pods.services().events.publish_missed(event);
                }
            }
        }
    }

    pub(super) fn tell_pod(&mut self, kind: Kind) {
        let id = self.record.id.clone();
        self.tell(&id, kind);
    }

    pub(super) fn tell(&mut self, subject: &str, kind: Kind) {
        let services = self.services();
        services
            .events
            .publish(subject, kind, || self.pod_event(subject, kind));
        match kind {
            Kind::Created | Kind::Started => {}
            Kind::Stopped => services.stats.close(subject),
            Kind::Deleted => services.stats.forget(subject),
        }
    }

    fn pod_event(&mut self, subject: &str, kind: Kind) -> PodEvent {
        let view = self.view.borrow();
        let pod = PodView {
            monitor: None,
            ..PodView::clone(&view)
        };
        PodEvent {
            subject: subject.to_owned(),
            kind,
            created_at: self.clock.next(now()),
            pod: Arc::new(pod),
        }
    }
}
