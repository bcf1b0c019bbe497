"""The laboratory: experiments over grids of cells, as commands and from a notebook.

::

    from simulations.lab import privacy

    run = privacy.run(privacy.PrivacyGrid(people=(1_000,), repeats=2), out="my-run")
    pandas.DataFrame(run.frame("curves"))
"""
