"""Okabe and Ito's colours, told apart by colour-blind eyes; they differ in lightness as well."""

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#666666"
