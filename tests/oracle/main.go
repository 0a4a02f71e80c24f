// The oracle answers how BuildKit reads Dockerfiles, words and lint rules, and how moby reads ignore files.
//
// It reads requests as JSON, one a line, and writes one answer a line. tests/peers.sh builds it inside a copy of
// BuildKit's module, so that its version stands in one place.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	mode "github.com/tonistiigi/dchapes-mode"
)

type request struct {
	Kind   string
	Data   []byte // base64 in JSON: it may be any bytes
	Text   string
	Escape string
	Env    map[string]string
	// Images: for each name its config
	Images   map[string]json.RawMessage
	Patterns []string
	Paths    []string
	// Modes: as Go's os.FileMode has them
	Modes []uint32
}

type answer map[string]any

func main() {
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	write := json.NewEncoder(out)
	write.SetEscapeHTML(false)
	kinds := map[string]func(request) (answer, error){
		"parse": parse, "trigger": trigger, "word": word, "words": words, "document": document, "lint": lint, "image": image,
		"ignorefile": ignoreFile, "matches": matches, "glob": glob, "chmod": chmod,
	}
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			var asked request
			if bad := json.Unmarshal(line, &asked); bad != nil {
				fail(bad)
			}
			found, problem := safely(kinds[asked.Kind], asked)
			if problem != nil {
				found = answer{"error": problem.Error()}
			}
			if bad := write.Encode(found); bad != nil {
				fail(bad)
			}
			out.Flush()
		}
		if err != nil {
			return
		}
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "oracle:", err)
	os.Exit(1)
}

func safely(ask func(request) (answer, error), asked request) (found answer, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return ask(asked)
}

func instruction(c any) answer {
	fields, err := json.Marshal(c)
	if err != nil {
		fail(err)
	}
	found := answer{}
	if err := json.Unmarshal(fields, &found); err != nil {
		fail(err)
	}
	if located, ok := c.(instructions.Command); ok {
		found["Location"] = located.Location()
		found["Comments"] = located.Comments()
		found["Instruction"] = strings.ToUpper(located.Name())
	}
	if text, ok := c.(fmt.Stringer); ok {
		found["Text"] = text.String()
	}
	if run, ok := c.(*instructions.RunCommand); ok {
		found["Network"] = instructions.GetNetwork(run)
		found["Security"] = instructions.GetSecurity(run)
		found["Mounts"] = len(instructions.GetMounts(run))
		found["Script"] = len(run.Files) > 0 && parser.MustParseHeredoc(run.CmdLine[0]) != nil
	}
	return found
}

func parse(asked request) (answer, error) {
	file, err := parser.Parse(bytes.NewReader(asked.Data))
	if err != nil {
		return nil, err
	}
	stages, arguments, err := instructions.Parse(file.AST, linter.New(&linter.Config{}))
	if err != nil {
		return nil, err
	}
	if len(stages) == 0 {
		return nil, errors.New("no stages")
	}
	found := answer{"Escape": string(file.EscapeToken), "Blanks": file.Warnings}
	var all []answer
	for i := range arguments {
		all = append(all, instruction(&arguments[i]))
	}
	for _, stage := range stages {
		from := instruction(stage)
		delete(from, "Commands")
		from["Instruction"] = "FROM"
		all = append(all, from)
		for _, c := range stage.Commands {
			all = append(all, instruction(c))
		}
	}
	found["Instructions"] = all
	return found, nil
}

func trigger(asked request) (answer, error) {
	file, err := parser.Parse(bytes.NewReader(asked.Data))
	if err != nil {
		return nil, err
	}
	if len(file.AST.Children) != 1 {
		return nil, errors.New("not one instruction")
	}
	c, err := instructions.ParseCommand(file.AST.Children[0])
	if err != nil {
		return nil, err
	}
	return answer{"Instructions": []answer{instruction(c)}}, nil
}

type environment map[string]string

func (e environment) Get(name string) (string, bool) {
	value, ok := e[name]
	return value, ok
}

func (e environment) Keys() []string {
	var keys []string
	for key := range e {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

func lexer(asked request) *shell.Lex {
	return shell.NewLex([]rune(asked.Escape)[0])
}

func names(set map[string]struct{}) []string {
	found := []string{}
	for name := range set {
		found = append(found, name)
	}
	slices.Sort(found)
	return found
}

func process(lex *shell.Lex, asked request) (answer, error) {
	result, err := lex.ProcessWordWithMatches(asked.Text, environment(asked.Env))
	if err != nil {
		return nil, err
	}
	return answer{"Text": result.Result, "Found": names(result.Matched), "Missing": names(result.Unmatched)}, nil
}

func word(asked request) (answer, error) {
	return process(lexer(asked), asked)
}

func document(asked request) (answer, error) {
	lex := shell.NewLex('\\')
	lex.SkipProcessQuotes = true
	return process(lex, asked)
}

func words(asked request) (answer, error) {
	found, err := lexer(asked).ProcessWords(asked.Text, environment(asked.Env))
	return answer{"Words": found}, err
}

type images map[string]json.RawMessage

func (m images) ResolveImageConfig(
	_ context.Context, ref string, opt sourceresolver.Opt,
) (string, digest.Digest, []byte, error) {
	data, ok := m[ref]
	if !ok {
		return "", "", nil, fmt.Errorf("no image %s", ref)
	}
	return ref, digest.FromBytes(data), data, nil
}

func options(asked request) dockerfile2llb.ConvertOpt {
	platform := ocispecs.Platform{OS: "linux", Architecture: "amd64"}
	return dockerfile2llb.ConvertOpt{
		Config:         dockerui.Config{BuildArgs: asked.Env, BuildPlatforms: []ocispecs.Platform{platform}},
		SourceMap:      llb.NewSourceMap(nil, "Dockerfile", "Dockerfile", asked.Data),
		TargetPlatform: &platform,
		MetaResolver:   images(asked.Images),
	}
}

// image answers with the config and the history that a build would write, and with the programs and file actions of its
// steps. Nothing is built.
func image(asked request) (answer, error) {
	result, err := dockerfile2llb.Dockerfile2LLB(context.Background(), asked.Data, options(asked))
	if err != nil {
		return nil, err
	}
	definition, err := result.State.Marshal(context.Background())
	if err != nil {
		return nil, err
	}
	runs, files := []any{}, []any{}
	for _, data := range definition.Def {
		var op pb.Op
		if err := op.UnmarshalVT(data); err != nil {
			return nil, err
		}
		if run := op.GetExec(); run != nil {
			runs = append(runs, run.Meta)
		}
		if file := op.GetFile(); file != nil {
			files = append(files, file.Actions)
		}
	}
	return answer{"Image": result.Image, "Runs": runs, "Files": files}, nil
}

func lint(asked request) (answer, error) {
	type warning struct {
		Rule, Text  string
		First, Last int
	}
	warnings := []warning{}
	options := options(asked)
	options.AllStages = true
	options.Warn = func(rule, _, _, text string, location []parser.Range) {
		found := warning{Rule: rule, Text: text}
		if len(location) > 0 {
			found.First, found.Last = location[0].Start.Line, location[len(location)-1].End.Line
		}
		warnings = append(warnings, found)
	}
	_, err := dockerfile2llb.Dockerfile2LLB(context.Background(), asked.Data, options)
	sort.Slice(warnings, func(i, j int) bool {
		return fmt.Sprint(warnings[i]) < fmt.Sprint(warnings[j])
	})
	found := answer{"Warnings": warnings}
	if err != nil {
		found["error"] = err.Error()
	}
	return found, nil
}

func ignoreFile(asked request) (answer, error) {
	patterns, err := ignorefile.ReadAll(bytes.NewReader(asked.Data))
	return answer{"Patterns": patterns}, err
}

func matches(asked request) (answer, error) {
	matcher, err := patternmatcher.New(asked.Patterns)
	if err != nil {
		return nil, err
	}
	found, walked := []any{}, []any{}
	for _, path := range asked.Paths {
		matched, err := matcher.MatchesOrParentMatches(path)
		found = append(found, orError(matched, err))
		walked = append(walked, orError(walk(matcher, path)))
	}
	return answer{"Matches": found, "Walked": walked}, nil
}

// walk asks for each directory on the way first, as BuildKit does when it reads a context.
func walk(matcher *patternmatcher.PatternMatcher, path string) (matched bool, err error) {
	above := patternmatcher.MatchInfo{}
	parts := strings.Split(path, "/")
	for end := range parts {
		matched, above, err = matcher.MatchesUsingParentResults(strings.Join(parts[:end+1], "/"), above)
		if err != nil {
			return false, err
		}
	}
	return matched, nil
}

func orError(value any, err error) any {
	if err != nil {
		return err.Error()
	}
	return value
}

// glob says which paths match a pattern of the sources of COPY.
func glob(asked request) (answer, error) {
	found, clean := []any{}, []string{}
	for _, path := range asked.Paths {
		matched, err := filepath.Match(asked.Text, path)
		found = append(found, orError(matched, err))
		clean = append(clean, filepath.Clean(path))
	}
	return answer{"Matches": found, "Clean": clean}, nil
}

// chmod says what a mode makes of each mode.
func chmod(asked request) (answer, error) {
	change, err := mode.ParseWithUmask(asked.Text, 0)
	if err != nil {
		return nil, err
	}
	found := []uint32{}
	for _, before := range asked.Modes {
		after := change.Apply(os.FileMode(before))
		bits := uint32(after.Perm())
		for bit, flag := range map[uint32]os.FileMode{0o4000: os.ModeSetuid, 0o2000: os.ModeSetgid, 0o1000: os.ModeSticky} {
			if after&flag != 0 {
				bits |= bit
			}
		}
		found = append(found, bits)
	}
	return answer{"Modes": found}, nil
}
