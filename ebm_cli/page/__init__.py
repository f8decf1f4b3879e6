"""report.html: one page on runs, with all that it shows inside it."""
