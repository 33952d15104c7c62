//! Values by number, where a number is never mistaken for an older one. Owns places; a place is used again
//! under a new generation.

/// See the module.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Slab<T> {
    pub(crate) fn new() -> Slab<T> {
        Slab { places: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(crate) fn insert(&mut self, value: T) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: 0, value: None });
            (self.places.len() - 1) as u32
        });
        let place = &mut self.places[index as usize];
        place.generation = place.generation.wrapping_add(1);
        place.value = Some(value);
        u64::from(place.generation) << 32 | u64::from(index)
    }

    fn place(&mut self, number: u64) -> Option<&mut Place<T>> {
        let place = self.places.get_mut((number & u64::from(u32::MAX)) as usize)?;
        (u64::from(place.generation) == number >> 32).then_some(place)
    }

    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        self.place(number)?.value.as_mut()
    }

    pub(crate) fn remove(&mut self, number: u64) -> Option<T> {
        let value = self.place(number)?.value.take()?;
        self.free.push((number & u64::from(u32::MAX)) as u32);
        Some(value)
    }

    /// Numbers of all values.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        let used = self.places.iter().enumerate().filter(|(_, place)| place.value.is_some());
        used.map(|(index, place)| u64::from(place.generation) << 32 | index as u64).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Slab;

    #[test]
    fn an_old_number_finds_nothing() {
        let mut slab = Slab::new();
        let old = slab.insert('a');
        assert_eq!(slab.remove(old), Some('a'));
        let new = slab.insert('b');
        assert_ne!(old, new);
        assert_eq!(slab.get_mut(old), None);
        assert_eq!(slab.remove(old), None);
        assert_eq!(slab.get_mut(new), Some(&mut 'b'));
        assert_eq!((slab.len(), slab.numbers()), (1, vec![new]));
    }
}
