"""The methods that mix experts into a composition: how each is made, stored and asked."""
