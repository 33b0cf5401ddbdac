package sim

import (
	"encoding/binary"
	"math"
	"math/rand/v2"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// positions is the number of places in the simulated key space. Each is an exact
// floating-point number and the name of a key.
const positions = 1 << 53

// encodedKey is the key at a place; the ends of the key space are its own.
func encodedKey(position uint64) []byte {
	switch position {
	case 0:
		return keyspace.Min()
	case positions:
		return keyspace.Max()
	}
	return keyspace.User(binary.BigEndian.AppendUint64(nil, position))
}

// place is the inverse of encodedKey for keys inside the key space.
func place(key []byte) uint64 {
	user, ok := keyspace.UserKey(key)
	if !ok || len(user) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(user)
}

// cells is how finely a density is cut.
const cells = 4096

// density is how something is spread over the key space: piecewise even, with cells
// that differ.
type density struct{ below [cells + 1]float64 }

// newDensity makes a density whose cells are lognormal: skew is the standard
// deviation of their logarithms, zero for an even one.
func newDensity(rng *rand.Rand, skew float64) *density {
	d := &density{}
	for i := range cells {
		d.below[i+1] = d.below[i] + math.Exp(skew*rng.NormFloat64())
	}
	for i := range d.below {
		d.below[i] /= d.below[cells]
	}
	return d
}

// upTo is the share that lies below a place, 0 to 1.
func (d *density) upTo(position uint64) float64 {
	at := float64(position) / positions * cells
	i := min(int(at), cells-1)
	return d.below[i] + (d.below[i+1]-d.below[i])*(at-float64(i))
}

// Load is what the whole cluster has to do at one moment.
type Load struct {
	// Bytes are those of one copy of all data.
	Bytes float64
	// Writes are those of a second. Share of them go to a hot spot of that Width
	// around Centre, which are parts of the key space; the others are spread as the
	// data is not.
	Writes, Share, Centre, Width float64
}

// hot is the share of the hot spot that lies below a place: logistic, so that it has
// no edge.
func (l Load) hot(position uint64) float64 {
	at := func(x float64) float64 { return 1 / (1 + math.Exp(-(x-l.Centre)/l.Width*4)) }
	low, high := at(0), at(1)
	return (at(float64(position)/positions) - low) / (high - low)
}

// halve finds the place between two others where something has as much on its left
// as on its right; ok is false if it is on one of them.
func halve(low, high uint64, upTo func(uint64) float64) (uint64, bool) {
	want := (upTo(low) + upTo(high)) / 2
	from, to := low, high
	for from+1 < to {
		middle := from + (to-from)/2
		if upTo(middle) < want {
			from = middle
		} else {
			to = middle
		}
	}
	return to, to > low && to < high
}
