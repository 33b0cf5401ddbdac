package cluster

import "strings"

// Add lays out one more member, which is to join a running cluster: once the cluster was told of it, start it. join are the members that it is told of, itself
// included.
func (c *Cluster) Add(join ...*Member) (*Member, error) {
	m, err := newMember(c, len(c.Members))
	if err != nil {
		return nil, err
	}
	c.Members = append(c.Members, m)
	var parts []string
	for _, other := range append(join, m) {
		parts = append(parts, other.Name+"="+other.PeerURL)
	}
	// Of a flag that is given twice the last one counts.
	m.SetArgs("--initial-cluster="+strings.Join(parts, ","), "--initial-cluster-state=existing")
	return m, nil
}
