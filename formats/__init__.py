"""What bytes mean: readers and writers of every container in which model weights are kept."""
