"""What `tfrecords_tools/download.py` does for each file."""
