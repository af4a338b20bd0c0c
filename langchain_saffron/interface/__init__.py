"""What both LangChain classes share: fields, invocation, messages in and out, prompts, response formats, profile."""
