package router

// LinkStats are figures of the way to one other member.
type LinkStats struct {
	Member uint64
	// Calls counts the requests and questions that were sent there, InFlight those
	// that wait for an answer, Serving those of that member that are in work here.
	Calls             uint64
	InFlight, Serving int
}

// Stats returns the figures of every member that was ever called, in no order.
func (r *Router) Stats() []LinkStats {
	var all []LinkStats
	for _, l := range *r.links.Load() {
		all = append(all, l.stats())
	}
	return all
}

func (l *link) stats() LinkStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return LinkStats{Member: l.member, Calls: l.mu.next - l.first, InFlight: len(l.mu.calls), Serving: len(l.mu.served)}
}
