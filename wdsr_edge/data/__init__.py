"""Where images come from: the layouts of data sets, pairs of ground truth and LR, and downloads."""
