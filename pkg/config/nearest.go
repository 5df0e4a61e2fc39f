package config

// Nearest returns the candidate that name is a likely slip of, or "".
func Nearest(name string, candidates []string) string { return nearest(name, candidates) }
