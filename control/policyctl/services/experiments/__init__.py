"""Long work on a release before it serves: calibrate, soak, tune, record and shadow."""
