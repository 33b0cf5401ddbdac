package placement

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

func TestSettingsHaveTheirDefaults(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range Settings(&kvdpb.ClusterSettings{}) {
		require.False(t, seen[s.Name], "%s twice", s.Name)
		seen[s.Name] = true
		require.Equal(t, s.Default, s.Value)
		require.False(t, s.Set)
		require.NotEmpty(t, s.Description)
		// What is shown is understood.
		next, shown, err := ChangeSetting(&kvdpb.ClusterSettings{}, s.Name, s.Value, false)
		require.NoError(t, err)
		require.Equal(t, s.Value, shown.Value)
		require.True(t, shown.Set)
		require.NoError(t, CheckSettings(next))
		_, shown, err = ChangeSetting(next, s.Name, "", true)
		require.NoError(t, err)
		require.Equal(t, s, shown)
	}
}

func TestSettingsAreChecked(t *testing.T) {
	for _, c := range []struct{ name, text, wrong string }{
		{"replicas", "0", "is not between 1 and 7"},
		{"replicas", "8", "is not between 1 and 7"},
		{"replicas", "-1", "is not a number"},
		{"replicas", "18446744073709551615", "is not between"},
		{"replicas", "", "is not a number"},
		{"repair", "maybe", "neither on nor off"},
		{"max-changes", "65", "is not between"},
		{"nonsense", "1", "no such setting"},
	} {
		_, _, err := ChangeSetting(&kvdpb.ClusterSettings{}, c.name, c.text, false)
		require.ErrorContains(t, err, c.wrong, "%s = %q", c.name, c.text)
	}
	five := uint32(5)
	was := &kvdpb.ClusterSettings{Replicas: &five}
	next, _, err := ChangeSetting(was, "repair", "off", false)
	require.NoError(t, err)
	require.EqualValues(t, 5, *next.Replicas, "the others stay")
	require.Nil(t, was.Repair, "the former settings are as they were")

	s := NewState()
	ninetynine := uint32(99)
	require.Equal(t, kvdpb.PlacementResult_INVALID, s.setSettings(&kvdpb.SetClusterSettings{Settings: &kvdpb.ClusterSettings{Replicas: &ninetynine}}).Rejection)
	require.Equal(t, kvdpb.PlacementResult_NONE, s.setSettings(&kvdpb.SetClusterSettings{Settings: was}).Rejection)
	require.Equal(t, kvdpb.PlacementResult_STALE, s.setSettings(&kvdpb.SetClusterSettings{Settings: was}).Rejection, "somebody else was faster")
	require.Equal(t, kvdpb.PlacementResult_NONE, s.setSettings(&kvdpb.SetClusterSettings{Settings: was, Version: 1}).Rejection)
}

func TestSizesOfSettings(t *testing.T) {
	for text, shown := range map[string]string{"1GiB": "1GiB", "1536 MiB": "1536MiB", "2000000": "2000000", "3MB": "3000000"} {
		next, s, err := ChangeSetting(&kvdpb.ClusterSettings{}, "split-bytes", text, false)
		require.NoError(t, err, text)
		require.Equal(t, shown, s.Value)
		require.NoError(t, CheckSettings(next))
	}
	for _, text := range []string{"1", "2PiB", "many", "-5MiB"} {
		_, _, err := ChangeSetting(&kvdpb.ClusterSettings{}, "split-bytes", text, false)
		require.Error(t, err, text)
	}
	set := BalanceSettings(&kvdpb.ClusterSettings{})
	require.True(t, set.SplitBySize && set.BalanceOwners && set.OwnersFollow)
	require.False(t, set.SplitByLoad)
	require.EqualValues(t, defaultSplitBytes, set.SplitBytes)
}
