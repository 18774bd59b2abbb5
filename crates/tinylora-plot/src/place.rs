//! Rectangles that are taken enter, a place that is free leaves: no two texts on one another, none on a mark.

/// A rectangle: left, top, width, height.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rect {
    /// Left.
    pub x: f64,
    /// Top.
    pub y: f64,
    /// Width.
    pub w: f64,
    /// Height.
    pub h: f64,
}

impl Rect {
    /// Around a point.
    pub fn around(x: f64, y: f64, half: f64) -> Self {
        Self { x: x - half, y: y - half, w: 2.0 * half, h: 2.0 * half }
    }

    /// Whether they have a part in common.
    pub fn meets(&self, other: &Self) -> bool {
        self.x < other.x + other.w
            && other.x < self.x + self.w
            && self.y < other.y + other.h
            && other.y < self.y + self.h
    }

    /// Whether the other one lies in it.
    pub fn holds(&self, other: &Self) -> bool {
        other.x >= self.x
            && other.y >= self.y
            && other.x + other.w <= self.x + self.w
            && other.y + other.h <= self.y + self.h
    }

    /// How far apart they are; 0 if they meet.
    pub fn distance(&self, other: &Self) -> f64 {
        let gap = |a: f64, wa: f64, b: f64, wb: f64| (b - a - wa).max(a - b - wb).max(0.0);
        gap(self.x, self.w, other.x, other.w).hypot(gap(self.y, self.h, other.y, other.h))
    }
}

/// What is taken, and by which series (`None`: by nobody in particular).
#[derive(Debug, Clone, Default)]
pub struct Taken {
    rects: Vec<(Rect, Option<usize>)>,
}

impl Taken {
    /// Takes a rectangle.
    pub fn add(&mut self, rect: Rect, owner: Option<usize>) {
        self.rects.push((rect, owner));
    }

    /// Takes a line, as small squares along it.
    pub fn add_line(&mut self, from: [f64; 2], to: [f64; 2], owner: Option<usize>) {
        let length = (to[0] - from[0]).hypot(to[1] - from[1]);
        let steps = (length / 3.0).ceil().clamp(1.0, 2000.0) as usize;
        for i in 0..=steps {
            let t = i as f64 / steps as f64;
            let (x, y) = (from[0] + t * (to[0] - from[0]), from[1] + t * (to[1] - from[1]));
            self.add(Rect::around(x, y, 1.5), owner);
        }
    }

    /// Whether nothing is there.
    pub fn is_free(&self, rect: &Rect) -> bool {
        !self.rects.iter().any(|(taken, _)| taken.meets(rect))
    }

    /// Whether a label there would be taken for `owner`'s: nothing of another series is nearer.
    pub fn belongs(&self, rect: &Rect, owner: usize) -> bool {
        let nearest = |own: bool| {
            let of = self.rects.iter().filter(|(_, other)| other.is_some_and(|o| (o == owner) == own));
            of.map(|(taken, _)| taken.distance(rect)).fold(f64::INFINITY, f64::min)
        };
        nearest(true) < nearest(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_places_are_found() {
        let mut taken = Taken::default();
        taken.add_line([0.0, 0.0], [100.0, 100.0], Some(0));
        taken.add_line([0.0, 100.0], [100.0, 200.0], Some(1));
        let label = |x: f64, y: f64| Rect { x, y, w: 20.0, h: 10.0 };
        assert!(!taken.is_free(&label(45.0, 45.0)));
        assert!(taken.is_free(&label(70.0, 20.0)));
        assert!(taken.belongs(&label(70.0, 40.0), 0) && !taken.belongs(&label(70.0, 40.0), 1));
        assert!(!taken.belongs(&label(30.0, 110.0), 0));
        assert_eq!(label(0.0, 0.0).distance(&label(23.0, 14.0)), 5.0);
        assert!(Rect { x: 0.0, y: 0.0, w: 50.0, h: 50.0 }.holds(&label(30.0, 40.0)));
    }
}
