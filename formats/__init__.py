"""What both lower packages must know of files and of checked values. Imports nothing of ours, stdlib only."""
