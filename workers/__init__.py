"""What happens: jobs in child processes, tracking, and the commands that start them."""
