"""Live speech over WebSockets, in the protocols that clients know; each is a door to the same session.

`stream` has what they share: frames in, events out, errors and their close codes. `plain` is our own
protocol, `realtime` is OpenAI's, `listen` is Deepgram's; SageMaker's lies in `serve.http.sagemaker`.
"""
