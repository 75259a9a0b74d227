def write_report(path, log_dir, rows, metric, top_k):
    pass
