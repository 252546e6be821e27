"""The stream: which molecules come when (plan), where a run stands (cursor), and batches of one shape (loader)."""
