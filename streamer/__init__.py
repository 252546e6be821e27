"""The stream: which molecules come when (plan), where a run stands (cursor), and fixed-size batches (loader)."""
