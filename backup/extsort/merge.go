package extsort

import (
	"bufio"
	"bytes"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// merge calls fn with the rows of sorted runs in order.
func (s *Sorter) merge(ctx context.Context, paths []string, fn func(key, value []byte) error) (err error) {
	h := &runHeap{}
	var open []*os.File
	defer func() {
		for _, f := range open {
			err = errors.Join(err, f.Close())
		}
	}()
	size := min(max(s.opts.MergeBytes/max(len(paths), 1), minBuffer), maxBuffer)
	for i, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			return fmt.Errorf("extsort: open run: %w", err)
		}
		open = append(open, f)
		r := &runReader{f: f, r: bufio.NewReaderSize(f, size), number: i}
		switch err := r.next(); {
		case err == nil:
			*h = append(*h, r)
		case !errors.Is(err, io.EOF):
			return err
		}
	}
	heap.Init(h)
	for n := 0; h.Len() > 0; n++ {
		if n%checkEvery == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		r := (*h)[0]
		if err := fn(r.key, r.value); err != nil {
			return err
		}
		switch err := r.next(); {
		case err == nil:
			heap.Fix(h, 0)
		case errors.Is(err, io.EOF):
			heap.Pop(h)
		default:
			return err
		}
	}
	return nil
}

// runHeap has the run with the smallest row on top.
type runHeap []*runReader

func (h runHeap) Len() int { return len(h) }

func (h runHeap) Less(i, j int) bool {
	c := bytes.Compare(h[i].key, h[j].key)
	return c < 0 || (c == 0 && h[i].number < h[j].number)
}

func (h runHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface; runs are only ever taken off.
func (h *runHeap) Push(x any) { *h = append(*h, x.(*runReader)) }

// Pop implements heap.Interface.
func (h *runHeap) Pop() any {
	last := len(*h) - 1
	r := (*h)[last]
	*h = (*h)[:last]
	return r
}
