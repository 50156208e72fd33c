//! What threads do that nobody waits for.

/// Others come first: for threads that work beside those who answer.
const NICENESS: i32 = 10;

/// Lets the calling thread give way to all others of the process.
pub fn give_way() {
    // On Linux the process "none" is the calling thread.
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "a thread in the background keeps its priority");
    }
}
