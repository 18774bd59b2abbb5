//! Templates that behave, and templates that do not.

use super::*;

fn template(text: &str) -> Result<ChatTemplate, TokenizerError> {
    let names = vec![("bos_token".into(), "<s>".into()), ("eos_token".into(), "</s>".into())];
    let source = Source { origin: "test.json".into(), text: text.into() };
    ChatTemplate::new(source, names, 1_722_470_400)
}

fn messages() -> Vec<Message> {
    let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    vec![message("system", "Be brief."), message("user", " 1 + 1? "), message("assistant", "2")]
}

fn render(text: &str) -> Result<String, TokenizerError> {
    template(text)?.render(&messages(), true)
}

#[test]
fn chatml() {
    let text = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] \
                + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    let expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n 1 + 1? <|im_end|>\n\
                    <|im_start|>assistant\n2<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(render(text).unwrap(), expected);
    assert!(!template(text).unwrap().render(&messages(), false).unwrap().ends_with("assistant\n"));
}

#[test]
fn blocks_are_trimmed_as_transformers_does() {
    let text = "{{ bos_token }}\n{% for m in messages %}\n    {% if m.role == 'user' %}\n{{ m.content | trim }}\n    {% endif %}\n{% endfor %}\n";
    assert_eq!(render(text).unwrap(), "<s>\n1 + 1?\n");
}

#[test]
fn python_methods_slices_and_loop_controls() {
    assert_eq!(render("{{ messages[1].content.strip().split(' ')[0] }}").unwrap(), "1");
    assert_eq!(render("{{ messages[1:] | length }}{{ messages[-1]['content'] }}").unwrap(), "22");
    assert_eq!(
        render("{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}x{% endfor %}")
            .unwrap(),
        "x"
    );
    assert_eq!(
        render("{{ messages[0].get('name', 'none') }}{{ 'name' in messages[0] }}").unwrap(),
        "noneFalse"
    );
    assert_eq!(render("{%- set ns = namespace(n=0) -%}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}").unwrap(), "3");
    assert_eq!(
        render("{% if tools is none and missing is not defined %}{{ none }}{{ true }}{% endif %}").unwrap(),
        "NoneTrue"
    );
}

#[test]
fn generation_blocks_are_plain_text() {
    let text = "{% for m in messages %}{% if m.role == 'assistant' %}{%- generation -%} {{ m.content }}{% endgeneration %}{% endif %}{% endfor %}";
    assert_eq!(render(text).unwrap(), "2");
    assert_eq!(plain_generation_blocks("{{ '{%' }} a {% generation"), "{{ '{%' }} a {% generation");
}

#[test]
fn json_is_written_as_python_does() {
    let text = r#"{{ {"a": [1, 2.5, none, true], "é<": "x\n\"y'"} | tojson }}"#;
    assert_eq!(render(text).unwrap(), r#"{"a": [1, 2.5, null, true], "é<": "x\n\"y'"}"#);
    assert_eq!(
        render("{{ {'b': 1, 'a': []} | tojson(indent=2, sort_keys=true) }}").unwrap(),
        "{\n  \"a\": [],\n  \"b\": 1\n}"
    );
    assert_eq!(render("{{ ['😀'] | tojson(ensure_ascii=true) }}").unwrap(), "[\"\\ud83d\\ude00\"]");
    assert_eq!(render("{{ [1, {'a': 2}] | tojson(separators=(',', ':')) }}").unwrap(), "[1,{\"a\":2}]");
}

#[test]
fn dates() {
    assert_eq!(render("{{ strftime_now('%d %b %Y %A %H:%M') }}").unwrap(), "01 Aug 2024 Thursday 00:00");
    assert_eq!(strftime("%F %a %j", 0).unwrap_err().kind(), ErrorKind::InvalidOperation);
    assert_eq!(strftime("%F %a", 951_782_400).unwrap(), "2000-02-29 Tue");
    assert_eq!(strftime("%F", 4_107_542_400).unwrap(), "2100-03-01");
    assert_eq!(civil(u64::MAX / 86_400).1, 11);
}

#[test]
fn endless_loops_end() {
    let nested = "{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}{% endfor %}{% endfor %}{% endfor %}";
    let error = render(nested).unwrap_err();
    assert!(matches!(&error, TokenizerError::TemplateLimit { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "chat template of test.json: stopped at the limit of 2000000 steps; the template loops or makes far too much text"
    );
}

#[test]
fn endless_recursion_and_growth_end() {
    for text in [
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{{ 'a' * 1000000000 }}",
        "{% for i in range(100000) %}{{ 'a' * 10000 }}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(30) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x | tojson }}",
        "{{ range(100000000) | list | length }}",
        "{{ ('%' ~ '1000000000s') | format('x') }}",
    ] {
        let error = render(text).unwrap_err();
        let known = matches!(&error, TokenizerError::TemplateLimit { .. } | TokenizerError::Template { .. });
        assert!(known && error.to_string().contains("test.json"), "{text}: {error}");
    }
    let error = render("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}").unwrap_err();
    assert!(error.to_string().contains("300 levels"), "{error}");
}

#[test]
fn refusals_carry_the_templates_words() {
    let error = render(
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}",
    )
    .unwrap_err();
    assert!(
        matches!(&error, TokenizerError::TemplateRefusal { message, .. } if message == "System role not supported"),
        "{error}"
    );
}

#[test]
fn nothing_outside_is_reachable() {
    for text in [
        "{% include '/etc/passwd' %}",
        "{% import 'x' as y %}",
        "{{ messages.__class__.__mro__ }}",
        "{{ open('/etc/passwd') }}",
    ] {
        assert!(matches!(render(text), Err(TokenizerError::Template { .. })), "{text}");
    }
}

#[test]
fn broken_templates_name_the_line() {
    let error = template("a\n{% for %}").err().unwrap();
    assert!(
        matches!(&error, TokenizerError::Template { problem, .. } if problem.contains("line 2")),
        "{error}"
    );
    let error = template(&"x".repeat(MAX_SOURCE + 1)).err().unwrap();
    assert!(matches!(error, TokenizerError::TemplateLimit { .. }));
    let nested = "{{ ".to_owned() + &"(".repeat(100_000) + &")".repeat(100_000) + " }}";
    assert!(matches!(template(&nested), Err(TokenizerError::TemplateLimit { .. })));
}
