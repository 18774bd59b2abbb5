//! Vectors for the length of a call, whose memory is used again by later calls on the same thread: in decode the same
//! few sizes are wanted over and over, and no step should ask the system for memory. Values never pass from call to call.

use crate::head::{Choice, Distribution};
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::thread::LocalKey;

/// Vectors that nobody uses at the moment.
pub(crate) type Free<T> = RefCell<Vec<Vec<T>>>;

/// Numbers that such vectors are made of.
pub trait Recyclable: Copy + Default + 'static {
    /// The thread's free vectors.
    #[doc(hidden)]
    fn free() -> &'static LocalKey<RefCell<Vec<Vec<Self>>>>;
}

/// Gives types their lists of free vectors.
macro_rules! recyclable {
    ($($type:ty),*) => {$(
        impl $crate::recycled::Recyclable for $type {
            fn free() -> &'static std::thread::LocalKey<$crate::recycled::Free<Self>> {
                thread_local! {
                    static FREE: $crate::recycled::Free<$type> = const { std::cell::RefCell::new(Vec::new()) };
                }
                &FREE
            }
        }
    )*};
}
pub(crate) use recyclable;

recyclable!(u32, [f32; 3], Distribution, Choice);

/// Elements that a new vector has room for: lists that grow with the context seldom outgrow it.
const LEAST: usize = 512;

/// A vector that is given back when it is dropped.
#[derive(Debug, PartialEq)]
pub struct Recycled<T: Recyclable>(Vec<T>);

impl<T: Recyclable> Recycled<T> {
    /// An empty one.
    pub fn empty() -> Self {
        let mut vector = T::free().with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(LEAST));
        vector.clear();
        Self(vector)
    }

    /// One with `len` elements, whatever they are: to be overwritten.
    pub(crate) fn arbitrary(len: usize) -> Self {
        let mut vector = T::free().with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(LEAST));
        vector.resize(len, T::default());
        Self(vector)
    }
}

impl<T: Recyclable> Drop for Recycled<T> {
    fn drop(&mut self) {
        let vector = std::mem::take(&mut self.0);
        // A thread that ends has no list any more.
        let _ = T::free().try_with(|free| free.borrow_mut().push(vector));
    }
}

impl<T: Recyclable> Deref for Recycled<T> {
    type Target = Vec<T>;
    fn deref(&self) -> &Vec<T> {
        &self.0
    }
}

impl<T: Recyclable> DerefMut for Recycled<T> {
    fn deref_mut(&mut self) -> &mut Vec<T> {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_and_values_do_not() {
        let place = {
            let mut first = Recycled::<u32>::empty();
            first.extend(0..1000);
            first.as_ptr()
        };
        let second = Recycled::<u32>::empty();
        assert_eq!((second.as_ptr(), second.len()), (place, 0));
        // While it is in use, another call gets other memory.
        let third = Recycled::<u32>::arbitrary(10);
        assert_ne!(third.as_ptr(), place);
        assert_eq!(third.len(), 10);
    }
}
