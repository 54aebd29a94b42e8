//! All that speaks AMQP, and the private RabbitMQ, against real brokers.

#[path = "../broker_support/mod.rs"]
mod broker_support;

mod fence;
mod latency;
mod link;
mod private;
mod restart;
