//! A set of whole numbers, sorted, each as wide as the widest needs: Redis's intset.

/// Sorted, without repetition.
#[derive(Clone, Debug)]
pub(super) struct Ints {
    /// 2, 4 or 8 bytes each.
    width: usize,
    bytes: Vec<u8>,
}

impl Default for Ints {
    fn default() -> Ints {
        Ints { width: 2, bytes: Vec::new() }
    }
}

fn width_of(value: i64) -> usize {
    if i16::try_from(value).is_ok() {
        2
    } else if i32::try_from(value).is_ok() {
        4
    } else {
        8
    }
}

impl Ints {
    /// An empty set for numbers of at least this width.
    pub(super) fn with_width(width: usize) -> Option<Ints> {
        matches!(width, 2 | 4 | 8).then_some(Ints { width, bytes: Vec::new() })
    }

    /// Bytes of one number. Only ever grows.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.bytes.len() / self.width
    }

    /// Bytes of all numbers.
    pub(super) fn used(&self) -> usize {
        self.bytes.len()
    }

    #[inline]
    pub(super) fn at(&self, index: usize) -> Option<i64> {
        let bytes = self.bytes.get(index * self.width..)?.get(..self.width)?;
        Some(match self.width {
            2 => i64::from(i16::from_le_bytes(bytes.try_into().expect("the slice is two bytes wide"))),
            4 => i64::from(i32::from_le_bytes(bytes.try_into().expect("the slice is four bytes wide"))),
            _ => i64::from_le_bytes(bytes.try_into().expect("the slice is eight bytes wide")),
        })
    }

    /// Where a number is, or where it would have to stand.
    pub(super) fn find(&self, value: i64) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = (low + high) / 2;
            match self.at(middle).expect("the middle lies below the length").cmp(&value) {
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// Puts a number where [`Ints::find`] said that it belongs.
    pub(super) fn insert_at(&mut self, index: usize, value: i64) {
        let width = self.width.max(width_of(value));
        if width > self.width {
            let mut bytes = Vec::with_capacity((self.len() + 1) * width);
            for value in self.iter() {
                bytes.extend_from_slice(&value.to_le_bytes()[..width]);
            }
            *self = Ints { width, bytes };
        }
        if self.bytes.capacity() - self.bytes.len() < width {
            self.bytes.reserve_exact((self.bytes.len() / 4).max(4 * width));
        }
        let place = index * width;
        self.bytes.splice(place..place, value.to_le_bytes()[..width].iter().copied());
    }

    pub(super) fn remove_at(&mut self, index: usize) {
        self.bytes.drain(index * self.width..(index + 1) * self.width);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = i64> + '_ {
        (0..self.len()).map(|index| self.at(index).expect("the index lies below the length"))
    }
}
