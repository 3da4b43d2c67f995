"""The demo page: what is asked for is checked, drawn or fitted without a browser; `page` alone knows Gradio."""
