"""The place of the graph; until it is here, ``vecstore.query`` scans, and every answer is exact."""
