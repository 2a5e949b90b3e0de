package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"time"

	"drover/internal/work"
)

//go:embed report.html
var page string

// HTML writes the report as a page that needs nothing but itself.
func (r Report) HTML(w io.Writer) error {
	parsed, err := template.New("report").Funcs(template.FuncMap{
		"percent": Percent, "span": Span, "thousands": Thousands, "usd": USD,
		"share": func(part, whole int) string { return Percent(float64(part) / float64(max(whole, 1))) },
	}).Parse(page)
	if err == nil {
		err = parsed.Execute(w, struct {
			Report
			DayChart    *dayChart
			ReasonChart *reasonChart
		}{r, newDayChart(r.Days), newReasonChart(r.Reasons)})
	}
	if err != nil {
		return fmt.Errorf("report page: %w", err)
	}
	return nil
}

// Percent writes a share of 0 to 1.
func Percent(share float64) string { return fmt.Sprintf("%.0f %%", 100*share) }

// Span writes seconds as people say them, with two units at most.
func Span(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second)).Round(time.Second)
	const day = 24 * time.Hour
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm %02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < day:
		return fmt.Sprintf("%dh %02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd %02dh", d/day, d%day/time.Hour)
}

// Thousands writes a count with the unit that suits it.
func Thousands(n float64) string {
	const thousand, million = 1e3, 1e6
	switch {
	case n >= million:
		return fmt.Sprintf("%.1fM", n/million)
	case n >= thousand:
		return fmt.Sprintf("%.0fk", n/thousand)
	}
	return fmt.Sprintf("%.0f", n)
}

// USD writes a cost.
func USD(cost float64) string { return fmt.Sprintf("$%.2f", cost) }

// Sizes of charts, in pixels of their own.
const (
	chartWidth   = 900
	dayHeight    = 220
	dayBottom    = 190 // of the bars
	dayTop       = 12
	dayLeft      = 44
	dayTexts     = 12 // at most, below the bars
	rowHeight    = 24
	reasonLeft   = 160
	reasonRight  = 840
	textRise     = 4
	smallestLine = 4 // lines of the grid
)

// dayChart is a stacked bar for each day.
type dayChart struct {
	Width, Height, TextY int
	Lines                []gridLine
	Bars                 []dayBar
}

type gridLine struct {
	Y, TextY float64
	Text     int
}

type dayBar struct {
	X, W, Mid, GoodY, GoodH, BadY, BadH float64
	Title, Text                         string
}

func newDayChart(days []Day) *dayChart {
	most := 0
	for _, d := range days {
		most = max(most, d.Completed+d.Others)
	}
	if most == 0 {
		return nil
	}
	step := niceStep(most)
	top := float64((most + step - 1) / step * step)
	scale := (dayBottom - dayTop) / top
	c := &dayChart{Width: chartWidth, Height: dayHeight, TextY: dayBottom + 18}
	for n := 0; n <= int(top); n += step {
		y := dayBottom - float64(n)*scale
		c.Lines = append(c.Lines, gridLine{Y: y, TextY: y + textRise, Text: n})
	}
	slot := float64(chartWidth-dayLeft) / float64(len(days))
	every := (len(days) + dayTexts - 1) / dayTexts
	for i, d := range days {
		b := dayBar{
			X: dayLeft + float64(i)*slot + slot*0.15, W: slot * 0.7, Mid: dayLeft + (float64(i)+0.5)*slot,
			GoodH: float64(d.Completed) * scale, BadH: float64(d.Others) * scale,
			Title: fmt.Sprintf("%s: %d completed, %d others", d.Date, d.Completed, d.Others),
		}
		b.GoodY = dayBottom - b.GoodH
		b.BadY = b.GoodY - b.BadH
		if i%every == 0 {
			b.Text = d.Date[len("2006-"):]
		}
		c.Bars = append(c.Bars, b)
	}
	return c
}

// niceStep returns 1, 2 or 5 times a power of ten, so that a grid up to most has few lines.
func niceStep(most int) int {
	for power := 1; ; power *= 10 {
		for _, factor := range []int{1, 2, 5} {
			if step := factor * power; math.Ceil(float64(most)/float64(step)) <= smallestLine {
				return step
			}
		}
	}
}

// reasonChart is a bar for each reason.
type reasonChart struct {
	Width, Height int
	Rows          []reasonRow
}

type reasonRow struct {
	Text, Class       string
	Y, TextY, W, EndX float64
	Count             int
}

func newReasonChart(reasons []Reason) *reasonChart {
	if len(reasons) == 0 {
		return nil
	}
	c := &reasonChart{Width: chartWidth, Height: rowHeight * len(reasons)}
	for i, r := range reasons {
		row := reasonRow{Text: string(r.Reason), Class: "bar", Count: r.Attempts, Y: float64(i*rowHeight) + 4, TextY: float64(i*rowHeight) + 16}
		if r.Reason.AttemptState() == work.AttemptCompleted {
			row.Class = "good"
		}
		row.W = (reasonRight - reasonLeft) * float64(r.Attempts) / float64(reasons[0].Attempts)
		row.EndX = reasonLeft + row.W + 6
		c.Rows = append(c.Rows, row)
	}
	return c
}
