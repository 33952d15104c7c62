//! Placeholder.

use std::rc::Rc;

use crate::answer::{Answer, Answering, Request, ready};
use crate::context::Context;

pub(crate) fn metadata(_: Rc<Context>, _: Request) -> Answering {
    ready(Answer::Close("not served".to_owned()))
}
