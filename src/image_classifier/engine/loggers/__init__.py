"""How each service takes an image, scalars, a table, a chart; may import the confusion room and runs."""
