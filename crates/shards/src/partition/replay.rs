//! Walking the journal's frames in order, read and checked ahead by a second thread.

use std::sync::Arc;
use std::thread;

use crossbeam_channel::bounded;
use storage::journal::{Frame, FrameIndex, ReadError, Reader};

/// Frames that may be read ahead of whoever applies them.
const FRAMES_AHEAD: usize = 8;

/// Calls `each` for every frame from this index on, in order, until the journal ends or something fails.
/// Reading and checking hashes runs beside `each`, so that both cores work.
pub(super) fn for_each_frame<Failure: From<ReadError>>(
    reader: &Reader,
    from_index: FrameIndex,
    mut each: impl FnMut(&Frame) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (sender, frames) = bounded::<Result<Arc<Frame>, ReadError>>(FRAMES_AHEAD);
    thread::scope(|scope| {
        scope.spawn(move || {
            for frame in reader.frames_from(from_index) {
                // The other side hangs up when it has failed: then nobody needs more frames.
                if sender.send(frame).is_err() {
                    return;
                }
            }
        });
        for frame in frames {
            each(&*frame?)?;
        }
        Ok(())
    })
}
