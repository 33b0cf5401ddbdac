package main

import (
	"image/color"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

// draw writes the chart as an SVG file.
func (c chart) draw(path string) error {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = c.title, c.x, c.y
	p.BackgroundColor = color.White
	p.Y.Min, p.Legend.Top = 0, true
	p.Add(plotter.NewGrid())
	for i, l := range c.lines {
		xys := make(plotter.XYs, len(l.points))
		for j, point := range l.points {
			xys[j] = plotter.XY{X: point[0], Y: point[1]}
		}
		drawn, err := plotter.NewLine(xys)
		if err != nil {
			return err
		}
		drawn.Color, drawn.Width = plotutil.Color(i), vg.Points(1.2)
		p.Add(drawn)
		p.Legend.Add(l.name, drawn)
	}
	top := p.Y.Max
	for _, m := range c.marks {
		at := m.At.Minutes()
		if c.x == "seconds" {
			at = m.At.Seconds()
		}
		drawn, err := plotter.NewLine(plotter.XYs{{X: at, Y: 0}, {X: at, Y: top}})
		if err != nil {
			return err
		}
		drawn.Color, drawn.Width, drawn.Dashes = color.Gray{Y: 0x60}, vg.Points(0.8), []vg.Length{vg.Points(3), vg.Points(3)}
		p.Add(drawn)
		if m.What == "" {
			continue
		}
		label, err := plotter.NewLabels(plotter.XYLabels{XYs: plotter.XYs{{X: at, Y: 0}}, Labels: []string{" " + m.What}})
		if err != nil {
			return err
		}
		p.Add(label)
	}
	return p.Save(18*vg.Centimeter, 8*vg.Centimeter, path)
}
