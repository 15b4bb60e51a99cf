package picker

// dice turns 64 random bits into as many random numbers as one pick needs (splitmix64).
type dice uint64

func (d *dice) next() uint64 {
	*d += 0x9e3779b97f4a7c15
	z := uint64(*d)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// below returns a number from 0 to n-1.
func (d *dice) below(n int) int { return int((d.next() >> 32) * uint64(n) >> 32) }

// float returns a number in [0, 1).
func (d *dice) float() float64 { return float64(d.next()>>11) / (1 << 53) }

// hashString is FNV-1a: the same in every process.
func hashString(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// Affinity returns the value of Request.Affinity for what requests have in common. It is never 0.
func Affinity(shared string) uint64 { return max(hashString(shared), 1) }
