//! Bytes as a script: what a state machine is to be told, one byte at a time. Whatever the bytes, they mean something.

pub struct Script<'a> {
    rest: &'a [u8],
}

impl<'a> Script<'a> {
    pub fn new(bytes: &'a [u8]) -> Script<'a> {
        Script { rest: bytes }
    }

    /// The next byte; none at the end.
    pub fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    /// The next byte; 0 from the end on.
    pub fn byte(&mut self) -> u8 {
        self.next().unwrap_or(0)
    }

    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// A number below `count`.
    pub fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count
    }

    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// A number near `here`, near zero, or as large as can be.
    pub fn near(&mut self, here: u64) -> u64 {
        let byte = self.byte();
        let by = u64::from(byte >> 3);
        match byte % 8 {
            0..=2 => here.wrapping_add(by),
            3 => here.wrapping_sub(by),
            4 => by,
            5 => u64::MAX - by,
            6 => u64::MAX / 2 + by,
            _ => u64::from_le_bytes(std::array::from_fn(|_| self.byte())),
        }
    }

    /// Bytes behind their length in two bytes, little-endian.
    pub fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(u16::from_le_bytes([self.byte(), self.byte()]));
        let (bytes, rest) = self.rest.split_at(length.min(self.rest.len()));
        self.rest = rest;
        bytes
    }
}
