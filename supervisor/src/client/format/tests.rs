use super::*;
use serde_json::json;

fn apply(template: &str) -> String {
    let value = json!({ "ID": "abc", "State": { "Pid": 7, "Running": true }, "Env": ["A=1", "B=2"], "Labels": { "x.y": "z" }, "List": [{ "Port": 80 }], "timeNano": 5, "Id": 1 });
    Template::parse(template)
        .and_then(|template| template.apply(&value))
        .unwrap_or_else(|fault| format!("! {fault}"))
}

#[test]
fn what_people_write() {
    assert_eq!(apply("{{.ID}}\\t{{.State.Pid}}"), "abc\t7");
    assert_eq!(apply("{{json .Env}}"), r#"["A=1","B=2"]"#);
    assert_eq!(apply("{{ .Env }}"), "[A=1 B=2]");
    assert_eq!(apply("{{range .Env}}{{.}};{{end}}"), "A=1;B=2;");
    assert_eq!(apply(r#"{{index .Labels "x.y"}}{{index .Env 1}}"#), "zB=2");
    // As text/template has it: the zero value of a map of texts, but nothing of a field.
    assert_eq!(apply(r#"{{index .Labels "none"}}"#), "");
    assert_eq!(apply("{{.Labels.none}}"), "<no value>");
    assert_eq!(apply("{{if .State.Running}}yes{{else}}no{{end}}"), "yes");
    assert_eq!(apply("{{if not .State.Running}}yes{{else}}no{{end}}"), "no");
    assert_eq!(apply("{{len .Env}}{{upper .ID}}"), "2ABC");
    assert_eq!(apply("{{range .Env}}{{$.ID}}{{end}}"), "abcabc");
    assert_eq!(
        apply("{{range $k, $v := .Labels}}{{$k}}={{$v}}{{end}}"),
        "x.y=z"
    );
    assert_eq!(
        apply("{{range $at, $word := .Env}}{{$at}}{{$word}};{{end}}"),
        "0A=1;1B=2;"
    );
    assert_eq!(
        apply("{{range $word := .Env}}{{$word}};{{end}}"),
        "A=1;B=2;"
    );
    assert_eq!(apply(r#"{{if eq .ID "x" "abc"}}yes{{end}}"#), "yes");
    assert_eq!(
        apply("{{eq (len .Env) 2}} {{ne .State.Pid 7}}"),
        "true false"
    );
    assert_eq!(apply(r#"{{index (split (index .Env 0) "=") 1}}"#), "1");
    assert_eq!(apply(r#"{{json (index .Labels "x.y")}}"#), r#""z""#);
    assert_eq!(apply("{{slice .ID 1 2}}{{slice .Env 1}}"), "b[B=2]");
    assert_eq!(
        apply(r#"{{printf "%-5s|%3d|%q|%%" .ID .State.Pid .ID}}"#),
        "abc  |  7|\"abc\"|%"
    );
    assert_eq!(apply(r#"{{join .Env ","}}"#), "A=1,B=2");
    assert_eq!(apply(r#"{{.Labels "x.y"}}{{.Labels "none"}}"#), "z");
}

#[test]
fn fields_have_the_names_of_dockers_source_too() {
    assert_eq!(apply("{{.TimeNano}} {{.timeNano}}"), "5 5");
    assert_eq!(apply("{{.ID}} {{.Id}} {{.State.PID}}"), "abc 1 7");
    // A label's name is its user's.
    assert_eq!(apply("{{.Labels.X}}"), "<no value>");
}

#[test]
fn what_is_made_goes_on() {
    assert_eq!(apply("{{.Env | json}}"), r#"["A=1","B=2"]"#);
    assert_eq!(apply(r#"{{.ID | printf "%s-%s" "x" | upper}}"#), "X-ABC");
    assert_eq!(apply("{{(len .Env | eq 2)}}"), "true");
    assert_eq!(
        apply(r#"{{with index .Labels "x.y"}}<{{.}} {{$.ID}}>{{end}}{{with .State.Z}}{{end}}"#),
        "! the template has the field Z, which is not there; there are: Pid, Running"
    );
    assert_eq!(
        apply(r#"{{with index .Labels "x.y"}}<{{.}} {{$.ID}}>{{end}}"#),
        "<z abc>"
    );
    assert_eq!(
        apply(r#"{{with index .Labels "none"}}{{.}}{{else}}none{{end}}"#),
        "none"
    );
    let template = r#"{{if eq .ID "x"}}1{{else if .State.Running}}2{{else}}3{{end}}"#;
    assert_eq!(apply(template), "2");
    assert_eq!(apply("{{range slice .Env 2}}x{{else}}none{{end}}"), "none");
    assert_eq!(
        apply("{{$pid := .State.Pid}}{{if gt $pid 6}}{{$pid}}{{end}}"),
        "7"
    );
    assert_eq!(apply("a {{- range .Env}} {{.}} {{- end}}b"), "a A=1 B=2b");
    assert_eq!(apply("{{.ID -}} \n b{{/* none */}}"), "abcb");
    assert_eq!(apply("{{(index .List 0).Port}}"), "80");
    assert_eq!(apply(r#"{{or "" .ID}}{{and .ID ""}}"#), "abc");
    assert_eq!(
        apply(r#"{{range .Env}}{{println .}}{{end}}{{join .Env "\n"}}"#),
        "A=1\nB=2\nA=1\nB=2"
    );
    assert_eq!(apply("{{truncate .ID 2}}"), "ab");
}

#[test]
fn what_is_wrong_is_told() {
    for template in [
        "{{.Nonsense}}",
        "{{.ID",
        "{{range .Env}}",
        "{{end}}",
        "{{nonsense}}",
        "{{eq .ID}}",
        "{{$nothing}}",
        "{{json (.ID}}",
        "{{.ID | }}",
        "{{if .ID}}x{{else}}y{{else}}z{{end}}",
        "{{lt .ID 1}}",
        "{{7 .ID}}",
        "{{slice .ID 2 9}}",
        "{{printf \"%s %s\" .ID}}",
        "{{index .Env 2}}",
        "{{index .Env \"a\"}}",
        "{{index .ID 0}}",
        "{{index .ID \"a\"}}",
        "{{index .Labels 0}}",
    ] {
        assert!(apply(template).starts_with("! "), "{template}");
    }
}
