package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// showKey writes a key so that a person can read it and readKey can read it again: as it is, or, if it holds what is
// not printable, begins with a quote or a parenthesis, or begins or ends with a blank, as a quoted Go string.
func showKey(key []byte) string {
	s := string(key)
	if s == "" || !utf8.ValidString(s) || s[0] == '"' || s[0] == '(' || strings.TrimSpace(s) != s {
		return strconv.Quote(s)
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return strconv.Quote(s)
		}
	}
	return s
}

// readKey reads a key of the command line: a quoted Go string if it begins with a double quote, the inside of one if
// escaped, else the argument as it is.
func readKey(argument string, escaped bool) ([]byte, error) {
	written := argument
	switch {
	case strings.HasPrefix(written, `"`):
	case escaped:
		written = `"` + written + `"`
	default:
		return checkKey(argument)
	}
	key, err := strconv.Unquote(written)
	if err != nil {
		return nil, fmt.Errorf("%s is not a Go string", written)
	}
	return checkKey(key)
}

func checkKey(key string) ([]byte, error) {
	if key == "" {
		return nil, errors.New("the key is empty")
	}
	return []byte(key), nil
}

// showBound writes a boundary of a shard. What cannot be a user's key stands in parentheses.
func showBound(key []byte, internal bool, open string) string {
	switch {
	case internal && len(key) == 0:
		return "(internal)" // where the internal key space begins
	case internal:
		return "(internal " + showKey(key) + ")"
	case len(key) == 0:
		return "(" + open + ")"
	}
	return showKey(key)
}
