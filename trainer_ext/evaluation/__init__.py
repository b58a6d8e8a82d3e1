"""What the student answers, how right that is, and what to show of it: answers -> scores -> report."""
