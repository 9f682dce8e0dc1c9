// Renders a Modelfile's template with the values, types and functions that Ollama gives to it.
//
// Standard input: {"template": ..., "asked": [{"messages": [...], "tools": [...]}, ...]}, messages and tools as in
// Ollama's API. Standard output: {"texts": [...], "mark": ...}, the mark being that by which Ollama finds calls in an
// answer: the first plain text behind `if .ToolCalls`.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/template"
	"text/template/parse"
)

type property struct {
	AnyOf       []property `json:"anyOf,omitempty"`
	Type        any        `json:"type,omitempty"`
	Items       any        `json:"items,omitempty"`
	Description string     `json:"description,omitempty"`
	Enum        []any      `json:"enum,omitempty"`
}

type parameters struct {
	Type       string              `json:"type"`
	Defs       any                 `json:"$defs,omitempty"`
	Items      any                 `json:"items,omitempty"`
	Required   []string            `json:"required,omitempty"`
	Properties map[string]property `json:"properties"`
}

type function struct {
	Name        string     `json:"name"`
	Description string     `json:"description,omitempty"`
	Parameters  parameters `json:"parameters"`
}

type tool struct {
	Type     string   `json:"type"`
	Items    any      `json:"items,omitempty"`
	Function function `json:"function"`
}

type tools []tool

type arguments map[string]any

type call struct {
	ID       string
	Function struct {
		Index     int
		Name      string
		Arguments arguments
	}
}

type message struct {
	Role, Content, Thinking, ToolName string
	ToolCallID                        string `json:"tool_call_id"`
	ToolCalls                         []call `json:"tool_calls"`
}

type conversation struct {
	Messages []*message
	Tools    tools
}

func (t tools) String() string     { return asJSON(t) }
func (a arguments) String() string { return asJSON(a) }

func asJSON(value any) string {
	text, _ := json.Marshal(value)
	return string(text)
}

// Neighbours of one role become one message, but for results of tools.
func collate(messages []*message) (string, []*message) {
	var system []string
	var kept []*message
	for _, each := range messages {
		if each.Role == "system" {
			system = append(system, each.Content)
		}
		if last := len(kept) - 1; last >= 0 && kept[last].Role == each.Role && each.Role != "tool" {
			kept[last].Content += "\n\n" + each.Content
		} else {
			kept = append(kept, each)
		}
	}
	return strings.Join(system, "\n\n"), kept
}

func inner(node parse.Node) [][]parse.Node {
	branch := func(branch parse.BranchNode) [][]parse.Node {
		found := [][]parse.Node{branch.List.Nodes}
		if branch.ElseList != nil {
			found = append(found, branch.ElseList.Nodes)
		}
		return found
	}
	switch node := node.(type) {
	case *parse.IfNode:
		return branch(node.BranchNode)
	case *parse.RangeNode:
		return branch(node.BranchNode)
	case *parse.WithNode:
		return branch(node.BranchNode)
	}
	return nil
}

func ofCalls(nodes []parse.Node) *parse.IfNode {
	for _, node := range nodes {
		if asked, ok := node.(*parse.IfNode); ok && strings.Contains(" "+asked.Pipe.String(), " .ToolCalls") {
			return asked
		}
		for _, list := range inner(node) {
			if found := ofCalls(list); found != nil {
				return found
			}
		}
	}
	return nil
}

func firstText(nodes []parse.Node) string {
	for _, node := range nodes {
		if text, ok := node.(*parse.TextNode); ok {
			return string(text.Text)
		}
		for _, list := range inner(node) {
			if found := firstText(list); found != "" {
				return found
			}
		}
		return "" // an action before it
	}
	return ""
}

func main() {
	var given struct {
		Template string
		Asked    []conversation
	}
	if err := json.NewDecoder(os.Stdin).Decode(&given); err != nil {
		panic(err)
	}
	functions := template.FuncMap{"json": asJSON}
	compiled := template.Must(template.New("").Option("missingkey=zero").Funcs(functions).Parse(given.Template))
	texts := []string{}
	for _, each := range given.Asked {
		system, messages := collate(each.Messages)
		var text strings.Builder
		values := map[string]any{
			"System": system, "Messages": messages, "Tools": each.Tools, "Response": "",
			"Think": false, "ThinkLevel": "", "IsThinkSet": false, "Query": "", "Document": "", "Instruction": "",
		}
		if err := compiled.Execute(&text, values); err != nil {
			panic(err)
		}
		texts = append(texts, text.String())
	}
	mark := ""
	if found := ofCalls(compiled.Root.Nodes); found != nil {
		mark = strings.Split(strings.TrimSpace(firstText(found.List.Nodes)), "{")[0]
	}
	fmt.Println(asJSON(map[string]any{"texts": texts, "mark": mark}))
}
