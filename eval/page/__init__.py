"""The results page: what `eval/report.py` shows, computed here and filled into templates.

`run` reads and judges, `curves`, `hardness`, `classes` and `embedding_map` compute, `pictures`,
`gallery` and `charts` make what is seen, `sections` puts it together and `render` writes HTML.
"""
