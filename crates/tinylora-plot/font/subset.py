"""Cuts Roboto down to the glyphs of the figures: fonts enter, smaller fonts leave.

Usage: python subset.py FOLDER_OF_ROBOTO (with Roboto-Regular.ttf and Roboto-Bold.ttf), with fonttools 4.68.
Kept are Latin, Greek and the signs of captions; hints, kerning and ligatures go, so that the width of a text is the sum of
its glyphs' widths.
"""

import sys
from pathlib import Path

from fontTools import subset

UNICODES = [*range(0x20, 0x7F), *range(0xA0, 0x180), *range(0x391, 0x3CA), 0x2010, 0x2011, 0x2012, 0x2013, 0x2014, 0x2018,
            0x2019, 0x201C, 0x201D, 0x2022, 0x2026, 0x2030, 0x2032, 0x2070, *range(0x2074, 0x207B), 0x2122, 0x2190, 0x2192,
            0x2212, 0x2248, 0x2260, 0x2264, 0x2265, 0x221E, 0xFFFD]

for name in ["Roboto-Regular.ttf", "Roboto-Bold.ttf"]:
    options = subset.Options(hinting=False, layout_features=[], notdef_outline=True, recalc_timestamp=False,
                             desubroutinize=True, drop_tables=["GPOS", "GSUB", "GDEF", "DSIG", "kern", "hdmx", "VDMX", "LTSH", "gasp"])
    font = subset.load_font(str(Path(sys.argv[1]) / name), options)
    cutter = subset.Subsetter(options)
    cutter.populate(unicodes=UNICODES)
    cutter.subset(font)
    subset.save_font(font, str(Path(__file__).parent / name), options)
