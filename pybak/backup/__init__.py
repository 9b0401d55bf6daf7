"""Making archives: from the walk to the finished bytes."""
