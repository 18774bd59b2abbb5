//! An SVG enters, a PNG leaves: the same picture with the font that comes along, whatever fonts the machine has.

use crate::error::PlotError;
use crate::text::{BOLD, REGULAR};
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};
use std::sync::Arc;

/// Pixels a side at most: 1 GiB of them.
const MOST: u32 = 16_384;

/// Renders at `scale` pixels a unit.
pub fn render(svg: &str, scale: f32) -> Result<Vec<u8>, PlotError> {
    let failed = |message: String| PlotError::Png { message };
    let tree = parse(svg).map_err(failed)?;
    let size = tree.size();
    let pixels = |length: f32| (f64::from(length) * f64::from(scale)).ceil().max(1.0);
    let (width, height) = (pixels(size.width()), pixels(size.height()));
    if !(width <= f64::from(MOST) && height <= f64::from(MOST)) {
        return Err(PlotError::TooLarge { width: width as u64, height: height as u64, most: MOST });
    }
    let mut pixmap =
        Pixmap::new(width as u32, height as u32).ok_or_else(|| failed("no memory for it".into()))?;
    resvg::render(&tree, Transform::from_scale(scale, scale), &mut pixmap.as_mut());
    pixmap.encode_png().map_err(|error| failed(error.to_string()))
}

/// The picture as the renderer reads it.
pub(crate) fn parse(svg: &str) -> Result<Tree, String> {
    let mut fonts = fontdb::Database::new();
    for font in [REGULAR, BOLD] {
        fonts.load_font_source(fontdb::Source::Binary(Arc::new(font)));
    }
    fonts.set_sans_serif_family("Roboto");
    let options = Options { fontdb: Arc::new(fonts), font_family: "Roboto".into(), ..Options::default() };
    Tree::from_str(svg, &options).map_err(|error| error.to_string())
}
