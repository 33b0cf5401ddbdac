package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// display writes shards.
type display func(io.Writer, []*kvdpb.ShardInfo) error

func displayFor(format string) (display, error) {
	switch format {
	case "simple":
		return showSimple, nil
	case "table":
		return showTable, nil
	case "json":
		return showJSON, nil
	default:
		return nil, errors.New("unsupported output format: shards are shown as simple, table or json")
	}
}

var heading = []string{"ID", "START", "END", "GENERATION", "OWNER", "REPLICAS", "SIZE", "KEYS", "PHASE"}

// row writes one shard for people.
func row(shard *kvdpb.ShardInfo) []string {
	owner := "?"
	if shard.OwnerMemberId != 0 {
		owner = memberName(shard.OwnerMemberName, shard.OwnerMemberId)
	}
	replicas := make([]string, len(shard.Replicas))
	for i, replica := range shard.Replicas {
		replicas[i] = memberName(replica.MemberName, replica.MemberId)
		switch {
		case replica.Joining:
			replicas[i] += " (joining)"
		case replica.Leaving:
			replicas[i] += " (leaving)"
		case replica.NonVoting:
			replicas[i] += " (non-voting)"
		case replica.Rebuild:
			replicas[i] += " (rebuild)"
		case replica.Corrupt:
			replicas[i] += " (corrupt)"
		}
	}
	phase := shard.Phase
	if shard.Operation != "" {
		phase += ", " + shard.Operation
	}
	keys := "?"
	if shard.Keys >= 0 {
		keys = strconv.FormatInt(shard.Keys, 10)
	}
	return []string{
		strconv.FormatUint(shard.Id, 10),
		showBound(shard.Start, shard.StartInternal, "start"),
		showBound(shard.End, shard.EndInternal, "end"),
		strconv.FormatUint(shard.Generation, 10),
		owner,
		strings.Join(replicas, ", "),
		showSize(shard.SizeBytes),
		keys,
		phase,
	}
}

// memberName is the member's name, or its id as etcdctl writes ids.
func memberName(name string, id uint64) string {
	if name == "" {
		return strconv.FormatUint(id, 16)
	}
	return name
}

// showSize writes bytes with three digits and a decimal unit, as etcdctl writes the size of a database.
func showSize(size int64) string {
	if size < 0 {
		return "?"
	}
	value, unit := float64(size), 0
	for units := len(sizeUnits) - 1; value >= 999.5 && unit < units; unit++ {
		value /= 1000
	}
	if unit == 0 || value >= 9.95 {
		return fmt.Sprintf("%.0f %s", value, sizeUnits[unit])
	}
	return fmt.Sprintf("%.1f %s", value, sizeUnits[unit])
}

var sizeUnits = []string{"B", "kB", "MB", "GB", "TB", "PB"}

// showSimple writes aligned columns without lines.
func showSimple(w io.Writer, shards []*kvdpb.ShardInfo) error {
	columns := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, line := range rows(shards) {
		if _, err := fmt.Fprintln(columns, strings.Join(line, "\t")); err != nil {
			return err
		}
	}
	return columns.Flush()
}

func rows(shards []*kvdpb.ShardInfo) [][]string {
	lines := [][]string{heading}
	for _, shard := range shards {
		lines = append(lines, row(shard))
	}
	return lines
}

// showTable writes a table with lines.
func showTable(w io.Writer, shards []*kvdpb.ShardInfo) error {
	lines := rows(shards)
	widths := make([]int, len(heading))
	for _, line := range lines {
		for i, cell := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var table strings.Builder
	rule := func() {
		for _, width := range widths {
			table.WriteString("+" + strings.Repeat("-", width+2))
		}
		table.WriteString("+\n")
	}
	rule()
	for number, line := range lines {
		for i, cell := range line {
			table.WriteString("| " + cell + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+1))
		}
		table.WriteString("|\n")
		if number == 0 {
			rule()
		}
	}
	rule()
	_, err := io.WriteString(w, table.String())
	return err
}

// memberJSON names a member. Ids are numbers, as etcdctl writes them in JSON.
type memberJSON struct {
	MemberID uint64 `json:"member_id"`
	Name     string `json:"name"`
}

type replicaJSON struct {
	ReplicaID uint64 `json:"replica_id"`
	memberJSON
	Voting  bool `json:"voting"`
	Joining bool `json:"joining,omitempty"`
	Leaving bool `json:"leaving,omitempty"`
	Rebuild bool `json:"rebuild,omitempty"`
	Corrupt bool `json:"corrupt,omitempty"`
}

// shardJSON is one shard for programs. Start and end are written as showKey writes keys, and empty at the ends of the
// key space.
type shardJSON struct {
	ID            uint64        `json:"id"`
	Start         string        `json:"start"`
	End           string        `json:"end"`
	StartInternal bool          `json:"start_internal,omitempty"`
	EndInternal   bool          `json:"end_internal,omitempty"`
	Generation    uint64        `json:"generation"`
	Owner         *memberJSON   `json:"owner"`
	Epoch         uint64        `json:"epoch"`
	Replicas      []replicaJSON `json:"replicas"`
	SizeBytes     *int64        `json:"size_bytes"`
	Keys          *int64        `json:"keys"`
	Phase         string        `json:"phase"`
	Operation     string        `json:"operation,omitempty"`
	AppliedIndex  uint64        `json:"applied_index"`
	Revision      int64         `json:"revision"`
}

// showJSON writes an array of objects. What is not known is null.
func showJSON(w io.Writer, shards []*kvdpb.ShardInfo) error {
	all := make([]shardJSON, len(shards))
	for i, shard := range shards {
		one := shardJSON{
			ID: shard.Id, Start: jsonBound(shard.Start), End: jsonBound(shard.End),
			StartInternal: shard.StartInternal, EndInternal: shard.EndInternal,
			Generation: shard.Generation, Epoch: shard.Epoch, Phase: shard.Phase, Operation: shard.Operation,
			AppliedIndex: shard.AppliedIndex, Revision: shard.Revision,
			SizeBytes: known(shard.SizeBytes), Keys: known(shard.Keys), Replicas: make([]replicaJSON, len(shard.Replicas)),
		}
		if shard.OwnerMemberId != 0 {
			one.Owner = &memberJSON{shard.OwnerMemberId, shard.OwnerMemberName}
		}
		for j, replica := range shard.Replicas {
			one.Replicas[j] = replicaJSON{replica.ReplicaId, memberJSON{replica.MemberId, replica.MemberName}, !replica.NonVoting, replica.Joining, replica.Leaving, replica.Rebuild, replica.Corrupt}
		}
		all[i] = one
	}
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(all)
}

func jsonBound(key []byte) string {
	if len(key) == 0 {
		return ""
	}
	return showKey(key)
}

func known(n int64) *int64 {
	if n < 0 {
		return nil
	}
	return &n
}
