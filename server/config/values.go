package config

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
)

// value is a setting as flag.Value: it writes to a field of Config, and shows it.
type value struct {
	set  func(string) error
	show func() string
	// kind is a word for help texts: what the value is.
	kind string
}

const kindBool = "bool"

func (v *value) Set(s string) error { return v.set(s) }

func (v *value) String() string {
	if v == nil || v.show == nil {
		return "" // package flag asks the zero value
	}
	return v.show()
}

// IsBoolFlag lets a flag stand without a value.
func (v *value) IsBoolFlag() bool { return v.kind == kindBool }

// number unwraps what strconv says, whose text names the function instead of the trouble.
func number(err error) error {
	var wrapped *strconv.NumError
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

func text(p *string) *value {
	return &value{kind: "string", show: func() string { return *p }, set: func(s string) error { *p = s; return nil }}
}

func boolean(p *bool) *value {
	return &value{kind: kindBool, show: func() string { return strconv.FormatBool(*p) }, set: func(s string) error {
		parsed, err := strconv.ParseBool(s)
		if err != nil {
			return number(err)
		}
		*p = parsed
		return nil
	}}
}

// unsigned accepts Go's prefixes 0x, 0o and 0b, as etcd does.
func unsigned[T uint | uint32 | uint64](p *T) *value {
	bits := 64
	if _, small := any(*p).(uint32); small {
		bits = 32
	}
	return &value{kind: "number", show: func() string { return strconv.FormatUint(uint64(*p), 10) }, set: func(s string) error {
		parsed, err := strconv.ParseUint(s, 0, bits)
		if err != nil {
			return number(err)
		}
		*p = T(parsed)
		return nil
	}}
}

func integer[T int | int64](p *T) *value {
	return &value{kind: "number", show: func() string { return strconv.FormatInt(int64(*p), 10) }, set: func(s string) error {
		parsed, err := strconv.ParseInt(s, 0, 64)
		if err != nil {
			return number(err)
		}
		*p = T(parsed)
		return nil
	}}
}

func duration(p *time.Duration) *value {
	return &value{kind: "duration", show: func() string { return shortDuration(*p) }, set: func(s string) error {
		parsed, err := time.ParseDuration(s)
		if err != nil {
			return err
		}
		*p = parsed
		return nil
	}}
}

// shortDuration is Duration.String without its zero tail: 2h, not 2h0m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// maxMilliseconds keeps what is written as a plain number far from overflow.
const maxMilliseconds = uint64(24 * time.Hour / time.Millisecond)

// milliseconds is a duration that is written as a plain number.
func milliseconds(p *time.Duration) *value {
	return &value{kind: "number", show: func() string { return strconv.FormatInt(p.Milliseconds(), 10) }, set: func(s string) error {
		parsed, err := strconv.ParseUint(s, 0, 64)
		if err != nil {
			return number(err)
		}
		if parsed > maxMilliseconds {
			return strconv.ErrRange
		}
		*p = time.Duration(parsed) * time.Millisecond
		return nil
	}}
}

// list is separated by commas. Blanks around an element and empty elements are dropped.
func list(p *[]string) *value {
	return &value{kind: "list", show: func() string { return strings.Join(*p, ",") }, set: func(s string) error {
		var elements []string
		for _, element := range strings.Split(s, ",") {
			if element = strings.TrimSpace(element); element != "" && !slices.Contains(elements, element) {
				elements = append(elements, element)
			}
		}
		*p = elements
		return nil
	}}
}

// urls is a list of URLs; the empty string is no URL.
func urls(p *types.URLs) *value {
	return &value{kind: "urls", show: func() string { return p.String() }, set: func(s string) error {
		if s == "" {
			*p = nil
			return nil
		}
		parsed, err := types.NewURLs(strings.Split(s, ","))
		if err != nil {
			return err
		}
		*p = slices.CompactFunc(parsed, func(a, b url.URL) bool { return a.String() == b.String() })
		return nil
	}}
}

// oneOf is a word out of a few.
func oneOf(p *string, words ...string) *value {
	return &value{kind: "string", show: func() string { return *p }, set: func(s string) error {
		if !slices.Contains(words, s) {
			return fmt.Errorf("invalid value, must be one of: %s", strings.Join(words, ", "))
		}
		*p = s
		return nil
	}}
}

// keys is a list of keys, each written as the inside of a Go string: \x00, \u00e4, \" and, for a comma, \x2c. They
// are kept in ascending order.
func keys(p *[][]byte) *value {
	show := func() string {
		quoted := make([]string, len(*p))
		for i, key := range *p {
			inside := strconv.Quote(string(key))
			quoted[i] = strings.ReplaceAll(inside[1:len(inside)-1], ",", `\x2c`)
		}
		return strings.Join(quoted, ",")
	}
	return &value{kind: "keys", show: show, set: func(s string) error {
		parsed, err := parseKeys(s)
		if err != nil {
			return err
		}
		*p = parsed
		return nil
	}}
}

func parseKeys(s string) ([][]byte, error) {
	if s == "" {
		return nil, nil
	}
	var parsed [][]byte
	for _, element := range strings.Split(s, ",") {
		if element == "" {
			return nil, errors.New("an empty key cannot be a boundary")
		}
		key, err := strconv.Unquote(`"` + element + `"`)
		if err != nil {
			return nil, fmt.Errorf("key %s is not the inside of a Go string", strconv.Quote(element))
		}
		if key == "" {
			return nil, errors.New("an empty key cannot be a boundary")
		}
		parsed = append(parsed, []byte(key))
	}
	slices.SortFunc(parsed, bytes.Compare)
	for i := 1; i < len(parsed); i++ {
		if bytes.Equal(parsed[i-1], parsed[i]) {
			return nil, fmt.Errorf("key %q is named twice", parsed[i])
		}
	}
	return parsed, nil
}
