//! Metrics as the wire has them, written one after the other.
//!
//! An answer has some sixty values of every container, each with the same six or more texts. As messages they would be
//! allocated one by one, only to be counted, copied and freed. Here those that all values of a container share are
//! encoded once. Field numbers are those of `Metric` in the CRI.

use husk_cri_api::v1::{MetricType, UInt64Value};
use prost::bytes::BufMut as _;
use prost::encoding::{self, WireType};

/// The metrics of one container or of one pod, all of one moment.
#[derive(Debug)]
pub(super) struct Metrics {
    /// The number of the message's field that they are in.
    field: u32,
    timestamp: i64,
    /// The first labels of every value, encoded.
    base: Vec<u8>,
    /// Room for one metric.
    metric: Vec<u8>,
    encoded: Vec<u8>,
}

impl Metrics {
    /// None so far. `begin` is what the message has before them.
    pub(super) fn new(field: u32, timestamp: i64, base: &[&str], begin: Vec<u8>) -> Self {
        let mut labels = Vec::new();
        for label in base {
            text(4, label, &mut labels);
        }
        Self {
            field,
            timestamp,
            base: labels,
            metric: Vec::new(),
            encoded: begin,
        }
    }

    /// One more value, whose labels are the shared ones and `labels`.
    pub(super) fn add(&mut self, name: &str, kind: MetricType, value: u64, labels: &[&str]) {
        let metric = &mut self.metric;
        metric.clear();
        text(1, name, metric);
        if self.timestamp != 0 {
            encoding::int64::encode(2, &self.timestamp, metric);
        }
        if kind != MetricType::default() {
            encoding::int32::encode(3, &kind.into(), metric);
        }
        metric.put_slice(&self.base);
        for label in labels {
            text(4, label, metric);
        }
        encoding::message::encode(5, &UInt64Value { value }, metric);
        encoding::bytes::encode(self.field, metric, &mut self.encoded);
    }

    /// The message.
    pub(super) fn done(self) -> Vec<u8> {
        self.encoded
    }
}

/// A field of text; also when it is empty, as in lists.
pub(super) fn text(field: u32, text: &str, to: &mut Vec<u8>) {
    encoding::encode_key(field, WireType::LengthDelimited, to);
    encoding::encode_varint(text.len() as u64, to);
    to.put_slice(text.as_bytes());
}

/// A message within another.
pub(super) fn message(field: u32, message: &Vec<u8>, to: &mut Vec<u8>) {
    encoding::bytes::encode(field, message, to);
}
