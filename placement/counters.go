package placement

import "sync/atomic"

// Counters count what a node does, for metrics. They only rise.
type Counters struct {
	// Claims counts claims of this process that applied; Rejected, proposals of
	// the tenure that did not.
	Claims, Rejected atomic.Uint64
	// Renewals counts renewals of the sequencer's lease; RenewalFailures, tries
	// that failed.
	Renewals, RenewalFailures atomic.Uint64
	// Windows counts window entries; WindowWaits, how often a caller had to wait
	// for one.
	Windows, WindowWaits atomic.Uint64
	// Parked counts messages that waited for a lease or a window; Repeated, those
	// that were answered a second time; NotServing, those that came too early.
	Parked, Repeated, NotServing atomic.Uint64
	// Messages counts messages to the sequencer; Resent, those sent again; Late,
	// answers that no caller waited for.
	Messages, Resent, Late atomic.Uint64
	// Malformed counts frames that could not be decoded.
	Malformed atomic.Uint64
}
